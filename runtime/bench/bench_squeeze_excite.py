# SPDX-License-Identifier: Apache-2.0
"""Inverted residual blocks with squeeze and excitation against ONNX Runtime's float32 and its static QDQ int8.

    python runtime/bench/bench_squeeze_excite.py [--json FILE] [--rounds 100]

Blocks of the sizes of MobileNetV3 and EfficientNet as models of their own, one thread: behind the depthwise convolution
the mean of every channel passes two layers, and its sigmoid (hard but for SiLU) multiplies the channel; the input is
added to the result, float32 at both ends; random weights. EdgeFold runs the recipe ``fused``, which makes of it five
FusedConvBlock, a CodeMean and a CodeGate; `mean, gate` is the share of these two in the time of all nodes by ONNX
Runtime's profile. Contenders take turns, three calls each; least processor time of the calling thread. Ratios above 1:
EdgeFold is faster. The fraction is of the peak of the 8-bit multiplication alone, measured at the start of this run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from residual_blocks import Block, measure, ratios
from setting import Setting, this_setting

from edgefold.measuring.waterline.node_times import run_nodes

BLOCKS = (
    Block(28, 40, 240, "HardSwish", 5, 64),
    Block(14, 112, 672, "HardSwish", 5, 168),
    Block(56, 32, 192, "Relu", 3, 48),
    Block(112, 16, 96, "SiLU", 3, 24),
)
EXCITATION = ("CodeMean", "CodeGate")
PROFILE_SECONDS = 1.0


def excitation_share(model: onnx.ModelProto, block: Block) -> float:
    """Of CodeMean and CodeGate in the time of all nodes."""
    x = np.random.default_rng(0).normal(size=(1, block.channels, block.size, block.size)).astype(np.float32)
    nodes = run_nodes(ir.serde.deserialize_model(model), {"x": x}, PROFILE_SECONDS)
    return sum(node.seconds for node in nodes if node.node.op_type in EXCITATION) / sum(node.seconds for node in nodes)


def bench(block: Block, rounds: int, setting: Setting) -> dict[str, Any]:
    row, models = measure(block, rounds, setting)
    return row | {"name": str(block), "excitation_share": excitation_share(models["edgefold"], block)}


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    head = f"{'fp32 us':>9}{'int8 us':>9}{'edgefold us':>13}{'to fp32':>9}{'to int8':>9}"
    yield f"{'block':<30}{head}{'of peak':>9}{'mean, gate':>12}  nodes"
    for row, (fp32, int8) in zip(rows, ratios(rows), strict=True):
        us = row["us"]
        times = f"{us['fp32']:>9.0f}{us['int8']:>9.0f}{us['edgefold']:>13.0f}{fp32:>8.2f}x{int8:>8.2f}x"
        nodes = ", ".join(f"{count} {kind}" for kind, count in row["nodes"].items())
        shares = f"{row['of_peak']['edgefold']:>9.0%}{row['excitation_share']:>12.0%}"
        yield f"{row['name']:<30}{times}{shares}  {nodes}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    setting = this_setting("requantize")
    rows = [bench(block, given.rounds, setting) for block in BLOCKS]
    print(f"1 thread; {setting.to_text()}")
    print("\n".join(lines(rows)))
    setting.write(given.json, rows, threads=1, rounds=given.rounds)


if __name__ == "__main__":
    main()
