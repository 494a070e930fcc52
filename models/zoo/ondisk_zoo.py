# SPDX-License-Identifier: Apache-2.0
"""Models that exist already: the real architectures that the onnx package ships, and those of a data folder.

The data folder is the one that EDGEFOLD_DATA names; its models are copied, not made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx


def copy(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)


def catalogue() -> dict[str, Callable[[Path], None]]:
    """Name -> a function that writes the file."""
    shipped = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    found = {f"onnx_{path.stem}": path for path in sorted(shipped.glob("*.onnx"))}
    data = os.environ.get("EDGEFOLD_DATA")
    for path in sorted(Path(data).glob("*/*.onnx")) if data else []:
        found[f"data_{path.parent.name}" + ("" if path.stem == "model" else f"_{path.stem}")] = path
    return {name: partial(copy, path) for name, path in found.items()}
