# SPDX-License-Identifier: Apache-2.0
"""Small networks of ConvNeXt, ConvFirst and bottleneck blocks: float32, and 4 bits before and after fuse-blocks.

    python runtime/bench/bench_block_networks.py WORK [--json FILE] [--seconds 6] [--only ConvNeXt]

Random weights, ``shift`` at 4 bits rounded to nearest (first and last layer 8), one image, one thread. The ConvNeXt is
that of models/zoo (it needs torch); the others have a convolution of 4x4 patches, three blocks, a mean and a linear
layer. What is compressed stays in WORK. Contenders take turns; least processor time of the calling thread. Ratios above
1: the fused file is faster.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from graph_session import open_model
from onnx import TensorProto, helper, numpy_helper
from residual_blocks import TASK, BlockGraph
from setting import this_setting
from taking_turns import taking_turns

from edgefold.compression import compress

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"
BLOCKS, CLASSES, PATCH = 3, 1000, 4
QUANTIZE = """steps:
  - {pass: simplify}
  - {pass: fold-batchnorm}
  - {pass: quantize, weights: 4, activations: 8, method: shift, rounding: nearest, first-last: 8}
"""
FUSE = "steps:\n  - {pass: fuse-blocks}\n"


@dataclass(frozen=True)
class Network:
    name: str
    write: Callable[[Path, int], None]


def conv_first(made: BlockGraph, x: str, at: str, channels: int = 64, inner: int = 256) -> str:
    """3x3 in groups of 8, 1x1, SiLU, 1x1, and what it read."""
    mixed = made.convolve(x, f"{at}.mixed", channels, channels, 3, channels // 8)
    active = made.activate(made.convolve(mixed, f"{at}.wide", channels, inner), "SiLU")
    return made.add("Add", [x, made.convolve(active, f"{at}.narrow", inner, channels)], f"{at}.y")


def bottleneck(made: BlockGraph, x: str, at: str, channels: int = 256, inner: int = 64) -> str:
    """1x1, ReLU, 3x3, ReLU, 1x1, what it read, ReLU."""
    small = made.activate(made.convolve(x, f"{at}.small", channels, inner), "Relu")
    mixed = made.activate(made.convolve(small, f"{at}.mixed", inner, inner, 3), "Relu")
    wide = made.convolve(mixed, f"{at}.wide", inner, channels)
    return made.activate(made.add("Add", [x, wide], f"{at}.sum"), "Relu")


def write_blocks(block: Callable[[BlockGraph, str, str], str], channels: int, path: Path, size: int) -> None:
    made = BlockGraph(np.random.default_rng(0))
    y = made.convolve("x", "patches", 3, channels, PATCH, stride=PATCH)
    for number in range(BLOCKS):
        y = block(made, y, f"block{number}")
    mean = made.add("Flatten", [made.add("GlobalAveragePool", [y], "mean")], "flat")
    weight = made.rng.normal(size=(channels, CLASSES)) * channels**-0.5
    made.weights.append(numpy_helper.from_array(weight.astype(np.float32), "classes"))
    made.add("MatMul", [mean, "classes"], "y")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CLASSES])
    graph = helper.make_graph(made.nodes, "network", [x], [out], made.weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def write_convnext(path: Path, size: int) -> None:
    sys.path.insert(0, str(ZOO))
    import torch
    from torch_export import randomize
    from torch_mobile import convnext

    torch.manual_seed(0)
    module = convnext().eval()
    randomize(module)
    image, names = torch.zeros(1, 3, size, size), {"input_names": ["x"], "output_names": ["y"]}
    torch.onnx.export(module, (image,), str(path), dynamo=False, opset_version=17, **names)


NETWORKS = (
    Network("ConvNeXt-T with 2, 2, 4, 2 blocks", write_convnext),
    Network("three ConvFirst blocks 64-256-64", partial(write_blocks, conv_first, 64)),
    Network("three bottlenecks 256-64-256", partial(write_blocks, bottleneck, 256)),
)


def forms(network: Network, size: int, work: Path) -> dict[str, Path]:
    """The network's files by form; made where they are not there."""
    folder = work / f"{network.name.split()[0 if network.name[0] == 'C' else 1]}{size}"
    folder.mkdir(parents=True, exist_ok=True)
    source, task = folder / "model.onnx", folder / "task.yaml"
    if not source.exists():
        network.write(source, size)
        x = np.random.default_rng(0).normal(size=(8, 3, size, size)).astype(np.float32)
        np.savez(folder / "samples.npz", x=x)
        task.write_text(TASK)
    made = {"fp32": source}
    for form, steps in (("unfused", QUANTIZE), ("fused", FUSE)):
        recipe = folder / f"{form}.yaml"
        recipe.write_text(steps)
        if not (folder / form).exists():
            compress(list(made.values())[-1], folder / form, str(recipe), task, seed=0)
        made[form] = folder / form / "model.onnx"
    return made


def bench(network: Network, size: int, work: Path, seconds: float) -> dict[str, Any]:
    files = forms(network, size, work)
    x = np.random.default_rng(1).normal(size=(1, 3, size, size)).astype(np.float32)
    calls = {form: partial(open_model(onnx.load(path), 1).run, None, {"x": x}) for form, path in files.items()}
    times = taking_turns(calls, seconds, in_a_row=3, clock=time.thread_time_ns)
    ms = {form: round(float(values.min()) * 1e-3, 3) for form, values in times.items()}
    nodes = Counter(node.op_type for node in onnx.load(files["fused"]).graph.node)
    return {"network": network.name, "size": size, "ms": ms, "nodes": dict(nodes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0, help="per network and size")
    parser.add_argument("--only", default="", help="networks whose name holds this")
    options = parser.parse_args()
    setting = this_setting("requantize")
    print(f"1 thread; {setting.to_text()}")
    print(f"{'network':<36}{'image':>6}{'fp32 ms':>9}{'unfused':>9}{'fused':>9}{'to fp32':>9}{'to unfused':>12}")
    rows = []
    for network in (network for network in NETWORKS if options.only in network.name):
        for size in (112, 224):
            rows.append(bench(network, size, options.work, options.seconds))
            ms = rows[-1]["ms"]
            times = "".join(f"{ms[form]:>9.2f}" for form in ("fp32", "unfused", "fused"))
            ratios = f"{ms['fp32'] / ms['fused']:>8.2f}x{ms['unfused'] / ms['fused']:>11.2f}x"
            print(f"{network.name:<36}{size:>6}{times}{ratios}", flush=True)
    setting.write(options.json, rows, threads=1, seconds=options.seconds)


if __name__ == "__main__":
    main()
