# SPDX-License-Identifier: Apache-2.0
"""Inverted residual blocks against ONNX Runtime's float32 and its static QDQ int8, one thread.

    python runtime/bench/bench_inverted_residual.py [--json FILE] [--rounds 150]

Each block is a model of its own: 1x1, 3x3 depthwise and 1x1 convolution, the activation after the first two, the input
added to the result, float32 at both ends; random weights. EdgeFold runs the recipe ``fused``: `one node` says where its
cost model took the whole block into one, else its convolutions are three. Contenders take turns, three calls each;
least processor time of the calling thread. Ratios above 1: EdgeFold is faster. The fractions are of the peak of their
multiplication alone, float or 8-bit, measured at the start of this run; they count the convolutions' operations alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from residual_blocks import Block, measure, ratios
from setting import this_setting

ACTIVATIONS = ("Relu", "HardSwish", "SiLU")
SHAPES = ((56, 32, 192), (28, 64, 384), (14, 96, 576))  # size, channels, expanded channels
CONTENDERS = ("fp32", "int8", "edgefold")
WIDTHS = dict(zip(CONTENDERS, (15, 6, 10), strict=True))  # of the columns of fractions


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    head = "".join(f"{name + ' us':>12}" for name in CONTENDERS) + f"{'to fp32':>9}{'to int8':>9}"
    yield f"{'block':<30}{head}{'of peak: fp32':>15}{'int8':>6}{'edgefold':>10}  nodes"
    for activation in ACTIVATIONS:
        its = [row for row in rows if row["activation"] == activation]
        for row, (fp32, int8) in zip(its, ratios(its), strict=True):
            name = f"{row['size']}x{row['size']} {row['channels']}-{row['expanded']}, {activation}"
            times = "".join(f"{row['us'][one]:>12.0f}" for one in CONTENDERS)
            peaks = "".join(f"{row['of_peak'][one]:>{width}.0%}" for one, width in WIDTHS.items())
            how = "one node" if "FusedInvertedResidual" in row["nodes"] else "three convolutions"
            yield f"{name:<30}{times}{fp32:>8.2f}x{int8:>8.2f}x{peaks}  {how}"
        mean = np.exp(np.log(ratios(its)).mean(axis=0))
        yield f"{activation + ', geometric mean':<66}{mean[0]:>8.2f}x{mean[1]:>8.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=150)
    given = parser.parse_args()
    setting = this_setting("requantize")
    blocks = [Block(*shape, activation) for activation in ACTIVATIONS for shape in SHAPES]
    rows = [measure(block, given.rounds, setting)[0] for block in blocks]
    print(f"1 thread; {setting.to_text()}")
    print("\n".join(lines(rows)))
    setting.write(given.json, rows, threads=1, rounds=given.rounds)


if __name__ == "__main__":
    main()
