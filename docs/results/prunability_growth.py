# SPDX-License-Identifier: Apache-2.0
"""Processor seconds of the dependency analysis of `prune-channels` by the number of nodes.

    python docs/results/prunability_growth.py [NODES ...]

The graphs are chains of residual blocks of two matrix products. What ONNX Runtime takes to open and run them is beside.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgefold.files.loading import load_model
from edgefold.passes.pruning.dependencies import analyse
from edgefold.passes.pruning.prepare import prepare
from edgefold.probing import probe

NODES = (500, 1000, 5000, 20_000, 50_000)
WIDTH, HIDDEN = 8, 16


def main(counts: Sequence[int]) -> None:
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "chain.onnx"
            onnx.save(chain(count), path)
            model = load_model(path).model
        ties, prepared = timed(partial(prepare, model))
        trace, run = timed(partial(probe, model))
        _, analysed = timed(partial(analyse, model, trace, ties))
        print(f"{count} nodes: prepared {prepared:.2f} s, analysed {analysed:.2f} s; probed {run:.2f} s", flush=True)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call and its processor seconds, without those that clear what earlier ones left."""
    gc.collect()
    started = time.process_time()
    result = call()
    return result, time.process_time() - started


def chain(count: int) -> onnx.ModelProto:
    """Blocks x + relu(x A) B of four nodes each, one behind the other."""
    random = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for block in range(count // 4):
        shapes = {f"a{block}": (WIDTH, HIDDEN), f"b{block}": (HIDDEN, WIDTH)}
        for name, shape in shapes.items():
            weights.append(numpy_helper.from_array(0.1 * random.standard_normal(shape).astype(np.float32), name))
        a, b = shapes
        nodes += [
            helper.make_node("MatMul", [x, a], [f"h{block}"]),
            helper.make_node("Relu", [f"h{block}"], [f"r{block}"]),
            helper.make_node("MatMul", [f"r{block}", b], [f"m{block}"]),
            helper.make_node("Add", [x, f"m{block}"], [f"x{block}"]),
        ]
        x = f"x{block}"
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", WIDTH]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:]] or NODES)
