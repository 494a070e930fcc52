# SPDX-License-Identifier: Apache-2.0
"""The section of docs/results/kernels.md on kernels and blocks, made of what the benches beside it measured.

    python runtime/bench/bench_depthwise.py --json docs/results/depthwise.json
    python runtime/bench/bench_inverted_residual.py --json docs/results/inverted_residual.json
    python runtime/bench/bench_squeeze_excite.py --json docs/results/squeeze_excite.json
    python docs/results/kernels_blocks.py

Every table has the machine of its own file. `kernels.py`, which makes the whole page, takes the section from here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TITLE, BEHIND = "## Kernels and blocks", "Blocks and tensors that became integers:"
KERNELS = (
    "Of kernels alone, least processor time of the thread; 472 GOP/s is the peak of register-resident vpdpbusd in",
    "the same run. Fused against unfused is `bench_blocks` ([CONTRIBUTING](../../CONTRIBUTING.md) tells how it is",
    "built).",
    "",
    "- `gemm_windows`, four panels of 16, 32, 64, 144 and 576 codes: 0.65, 0.78, 0.85, 0.95 and 0.99 of the peak.",
    "- `requantize` takes 3.8 to 4.2 cycles for 16 codes with ReLU, 6.0 with a residual, 6.5 with HardSwish and 11",
    "  to 12.5 with SiLU and GELU, 64 channels of 32 pixels at a time; its AVX2 variant 5.6 to 5.9, 8.0, 9.0 and 29",
    "  to 32. Codes come from an estimate with a known error (a line, a ramp, 32 cubic or 16 quartic polynomials),",
    "  and from the formula where that error could change one, so that they are the same. By the formula alone, and",
    "  cubic polynomials with a test of their own for each vector, it was 4.7 to 5.4, 7.4, 8.3 and 14.4, on AVX2",
    "  10.1, 13, 18.3 and 51 to 58.",
    "- One node against three convolutions: at 256x256, 32 to 192 to 32 channels, where 12.6 MB lie between them,",
    "  1.47 with ReLU6, 1.47 with HardSwish (1.39 to 1.53 beside other work), 1.27 with SiLU (1.30 and 1.31 beside",
    "  other work; aim: 1.4); at 128x128 and below 1.00 to 1.16. Workspace at 56x56x192: 57 KB.",
    "- What keeps SiLU from 1.4: one node saves 4 to 5 ms with every activation, the traffic of those 12.6 MB, and",
    "  SiLU's codes add as much to both sides: 17.1 ms become 13.0, where 1.4 would allow 10.2. The floor of the",
    "  node is 3.9 ms, its products at the peak (30 %); its 25 million codes take 4.7 more at 11 cycles for 16, and",
    "  3.2 at the 7.5 that the vector units need. The two most promising things tried are those of the blocks below:",
    "  fewer permutations, 1.4 ms less on both sides (with wrong codes; it would be 1.35), and quadratic polynomials",
    "  in 16 bits, 0.95 of the time, with which it would be 1.33.",
)
DEPTHWISE = (
    "Depthwise convolutions from codes to codes, one node through `session.run` on both sides, channel-last as ONNX",
    "Runtime's own transformer lays its QLinearConv out (`python runtime/bench/bench_depthwise.py`). The floor is",
    "the longer of the products at the peak, of which a 3x3 window fills nine places of twelve, and the codes in and",
    "out.",
)
DEPTHWISE_READING = (
    "The aim, 1.5 times QLinearConv with 3x3 at 56x56x192, holds. Windows of 5x5 and 7x7 gain more, 1.8 to 3.0 times",
    "at stride 1 and 1.3 to 1.8 at stride 2. A 3x3 window at stride 2 is little faster than QLinearConv, 1.0 to 1.2",
    "times: every output reads inputs of its own, so that moving codes and requantizing them, 4 cycles for 16, weigh",
    "more than its products. Of 3x3 at stride 1 the products take 5 to 9 cycles for 16 sums, where the units need",
    "3.3.",
)
INVERTED = (
    "Whole inverted residual blocks through `session.run`, float32 at both ends, the input added to the result",
    "(`python runtime/bench/bench_inverted_residual.py`). Microseconds; ratios above 1: EdgeFold is faster. The peak",
    "is that of the 8-bit multiplication, of fp32 that of float32. Blocks are one FusedInvertedResidual, or three",
    "FusedConvBlock and an addition where the cost model expects no gain of one node.",
)
INVERTED_READING = (
    "The aims for ReLU, 1.0 of int8 in each and 1.1 in the mean, hold. For HardSwish and SiLU they are 1.8 of int8",
    "and 2.0 of fp32 in each, 2.0 and 2.3 in the mean. All of HardSwish's hold (at 14x14 1.84 in six of seven runs),",
    "and those of SiLU to fp32. To int8 SiLU reaches its own at 56x56 (1.79 to 1.84 in eight runs), not at 28x28 and",
    "14x14, nor in the mean. Its floors, products at the peak, are 187, 175 and 96 us: a third to a half of what the",
    "blocks take. What limits is its codes: 11 cycles for 16, of which the vector units need 7.5. At 28x28 1.8 of",
    "int8 would be 337 us, 52 more than with ReLU for 602,000 codes: 9 cycles for 16 in all. At 14x14 the block with",
    "ReLU already takes 153, so that 1.8 of int8, 151 us, is out of reach of any SiLU before products are faster.",
    "The two most promising things tried: without three of the four permutations of two registers the codes would",
    "take 3.2 cycles less, without ever asking the formula 0.8 less (both with wrong codes); and quadratic",
    "polynomials over 64 segments in 16-bit integers, 32 channels a register, give the same codes in 10.0 (GELU in",
    "10.2 in place of 12.4): never asking, they take 7.5 to 8.4, but their error is twice that of the cubics, so",
    "that one pixel of 64 channels in nine asks. The blocks took 0.93 (56x56), 0.95, 1.06 and, at 256x256, 0.95 of",
    "their time: not kept, for below a scale of some 0.03 the cubics would have to stay beside them.",
)
EXCITED = (
    "The same with squeeze and excitation behind the depthwise convolution: five FusedConvBlock, a CodeMean and a",
    "CodeGate (`python runtime/bench/bench_squeeze_excite.py`); the last column is the share of these two in the",
    "time of all nodes.",
)
EXCITED_READING = (
    "Of int8 these blocks have 1.25 to 2.2 times the speed. Mean and gate, a sum of codes and a product from codes",
    "to codes, are two more passes over the widest tensor: 10 to 20 % of the time; with them the ReLU block at 56x56",
    "takes 1.4 times as long as without excitation. At 112x112 SiLU is what limits: the codes of two activations",
    "take some 450 us at 11 cycles for 16, products at the peak 209.",
)
CONTENDERS = ("fp32", "int8", "edgefold")


def section() -> list[str]:
    """The lines of the section."""
    depthwise, inverted, excited = (_load(name) for name in ("depthwise", "inverted_residual", "squeeze_excite"))
    return [
        *(TITLE, "", *KERNELS, ""),
        *("### Depthwise convolutions", "", *DEPTHWISE, _machine(depthwise), ""),
        *(*_depthwise(depthwise["rows"]), "", *DEPTHWISE_READING, ""),
        *("### Inverted residual blocks", "", *INVERTED, _machine(inverted), ""),
        *(*_inverted(inverted["rows"]), "", *INVERTED_READING, ""),
        *(*EXCITED, _machine(excited), "", *_excited(excited["rows"]), "", *EXCITED_READING, ""),
    ]


def main() -> None:
    """Puts the section into the page that stands there."""
    page = HERE / "kernels.md"
    text = page.read_text(encoding="utf-8")
    before, behind = text[: text.index(TITLE)], text[text.index(BEHIND) :]
    page.write_text("\n".join([before + section()[0], *section()[1:], behind]), encoding="utf-8")


def _load(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def _machine(found: Any) -> str:
    setting = found["setting"]
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    peak = setting["ceilings"]["integer_operations"] * 1e-9
    load = f"{'beside other work, ' if setting['load_average'] > 1 else ''}load average {setting['load_average']:.1f}"
    return f"{setting['machine']['cpu']}, {setting['isa']}, one thread, {versions}; {load}; peak {peak:.0f} GOP/s."


def _depthwise(rows: list[Any]) -> Iterator[str]:
    head = "| of | layer | QLinearConv us | FusedConvBlock us | ratio | GOP/s"
    yield f"{head} | of floor | QLinearConv: of floor | bound |"
    yield "|---" * 9 + "|"
    for row in rows:
        theirs, ours = row["min_us"]["QLinearConv"], row["min_us"]["FusedConvBlock"]
        floors = [f"{row['of_floor'][name]:.0%}" for name in ("FusedConvBlock", "QLinearConv")]
        figures = f"{theirs:.1f} | {ours:.1f} | {row['ratio']:.2f}x | {row['gops']:.0f} | {' | '.join(floors)}"
        yield f"| {row['model']} | {row['layer']} | {figures} | {row['bound']} |"


def _inverted(rows: list[Any]) -> Iterator[str]:
    yield "| block | nodes | ORT fp32 | ORT int8 | EdgeFold | to fp32 | to int8 | of peak: fp32 | int8 | EdgeFold |"
    yield "|---" * 10 + "|"
    for activation in dict.fromkeys(row["activation"] for row in rows):
        its = [row for row in rows if row["activation"] == activation]
        for row in its:
            shape = f"{row['size']}x{row['size']} {row['channels']}-{row['expanded']}-{row['channels']}"
            nodes = "one" if "FusedInvertedResidual" in row["nodes"] else "three"
            yield f"| {shape}, {_spelt(activation)} | {nodes} | {_figures(row, CONTENDERS)} |"
        means = " | ".join(f"{_mean(its, peer):.2f}x" for peer in ("fp32", "int8"))
        yield f"| geometric mean | | | | | {means} | | | |"


def _excited(rows: list[Any]) -> Iterator[str]:
    yield "| block | ORT fp32 | ORT int8 | EdgeFold | to fp32 | to int8 | of peak: EdgeFold | mean and gate |"
    yield "|---" * 8 + "|"
    for row in rows:
        kernel = f"{row['kernel']}x{row['kernel']}"
        shape = f"{row['size']}x{row['size']} {row['channels']}-{row['expanded']}-{row['channels']}, {kernel}"
        name = f"{shape}, {_spelt(row['activation'])}"
        yield f"| {name} | {_figures(row, ('edgefold',))} | {row['excitation_share']:.0%} |"


def _figures(row: Any, of_peak: tuple[str, ...]) -> str:
    us = row["us"]
    cells = [f"{us[name]:.0f}" for name in CONTENDERS]
    cells += [f"{us[peer] / us['edgefold']:.2f}x" for peer in ("fp32", "int8")]
    return " | ".join([*cells, *(f"{row['of_peak'][name]:.0%}" for name in of_peak)])


def _mean(rows: list[Any], peer: str) -> float:
    return math.exp(sum(math.log(row["us"][peer] / row["us"]["edgefold"]) for row in rows) / len(rows))


def _spelt(activation: str) -> str:
    return "ReLU" if activation == "Relu" else activation


if __name__ == "__main__":
    main()
