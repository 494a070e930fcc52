# SPDX-License-Identifier: Apache-2.0
"""Models that exist already: the real architectures that the onnx package ships, and those of a data folder.

The weights of the first are all equal or zero (ConstantOfShape); they become random ones, so that channels differ. The
data folder is the one that EDGEFOLD_DATA names; its models are copied, not made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def randomized(source: Path, path: Path) -> None:
    """Copies a model with random initializers in the place of its ConstantOfShape nodes."""
    model = onnx.load(source)
    random = np.random.default_rng(0)
    stored = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    filled = [node for node in model.graph.node if node.op_type == "ConstantOfShape"]
    for node in filled:
        shape = stored[node.input[0]]
        # Vectors may be variances, which are positive.
        vector = len(shape) < 2
        weights = random.uniform(0.2, 1, shape) if vector else random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        model.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), node.output[0]))
        model.graph.node.remove(node)
    model.ir_version = 4  # initializers need not be inputs
    onnx.save(model, path)


def copy(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)


def catalogue() -> dict[str, Callable[[Path], None]]:
    """Name -> a function that writes the file."""
    shipped = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    found = {f"onnx_{path.stem}": partial(randomized, path) for path in sorted(shipped.glob("*.onnx"))}
    data = os.environ.get("EDGEFOLD_DATA")
    for path in sorted(Path(data).glob("*/*.onnx")) if data else []:
        found[f"data_{path.parent.name}" + ("" if path.stem == "model" else f"_{path.stem}")] = partial(copy, path)
    return found
