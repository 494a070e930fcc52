# SPDX-License-Identifier: Apache-2.0
"""Linear layers of real models, ShiftMatMul against ONNX Runtime's products and against this machine's ceilings.

    python runtime/bench/bench_linear.py [--json FILE] [--seconds 1] [--threads 1] [--calls 1] [--only mobilenet]

One-node models through `session.run`, input quantization included, interleaved in one process; a 1x1 convolution is the
product of its pixels. Prints the least microseconds of a call, and of `shift 4` its speed, its ratio to ONNX Runtime's
int8 and to MatMulNBits (above 1 is faster), and the fraction of its floor: the longer of the operations at the speed of
the integer instructions alone and the weights read once from the level of memory that holds them, both measured at
the start of this run. With one call a turn every contender finds the caches full of the others' weights, as a layer of
a large model does; with several it finds its own, as a layer of a small one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from bench_matmul import float32, floor, int8_dynamic, lut_table, matmul_nbits, measure, shift_matmul, shift_table
from setting import Floor, Setting, this_setting


@dataclass(frozen=True)
class Layer:
    """A product [rows, k] x [k, n]."""

    model: str
    k: int
    n: int
    rows: int


SUITE = (
    *(Layer("minilm attention", 384, 384, rows) for rows in (1, 16, 128)),
    *(Layer("minilm up", 384, 1536, rows) for rows in (1, 16, 128)),
    *(Layer("minilm down", 1536, 384, rows) for rows in (1, 16, 128)),
    *(Layer("bert up", 768, 3072, rows) for rows in (1, 4, 16, 64, 256)),
    *(Layer("llm", 4096, 4096, rows) for rows in (1, 16, 64)),
    Layer("gpt up", 128, 512, 1),
    Layer("gpt up", 128, 512, 64),
    Layer("mobilenet 1x1 56x56", 24, 144, 3136),
    Layer("mobilenet 1x1 28x28", 192, 32, 784),
    Layer("mobilenet 1x1 14x14", 64, 384, 196),
    Layer("mobilenet 1x1 14x14", 576, 96, 196),
    Layer("mobilenet 1x1 7x7", 160, 960, 49),
    Layer("mobilenet 1x1 7x7", 320, 1280, 49),
)


@dataclass(frozen=True)
class Row:
    """What one layer took: least and median microseconds by backend; None where a backend has no form for it."""

    layer: Layer
    least: dict[str, float | None]
    median: dict[str, float | None]
    gops: float
    floor: Floor

    @property
    def floor_fraction(self) -> float:
        return self.floor.us / (self.least["shift 4"] or 1.0)

    def ratio(self, backend: str) -> float | None:
        theirs, ours = self.least[backend], self.least["shift 4"]
        return None if theirs is None or ours is None else theirs / ours


def backends(layer: Layer, threads: int) -> dict[str, ort.InferenceSession | None]:
    rng = np.random.default_rng(0)
    k, n = layer.k, layer.n
    make: dict[str, Callable[[], ort.InferenceSession]] = {
        "fp32": lambda: float32(rng, k, n, threads),
        "int8": lambda: int8_dynamic(rng, k, n, threads),
        "NBits": lambda: matmul_nbits(rng, k, n, threads),
        **{f"shift {bits}": lambda b=bits: shift_matmul(rng, k, n, shift_table(b), threads) for bits in (2, 3, 4, 8)},
        "lut 4": lambda: shift_matmul(rng, k, n, lut_table(), threads),
    }
    return {name: None if name == "NBits" and k % 32 else one() for name, one in make.items()}


def bench(layer: Layer, options: argparse.Namespace, setting: Setting) -> Row:
    sessions = backends(layer, options.threads)
    x = np.random.default_rng(1).standard_normal((layer.rows, layer.k)).astype(np.float32)
    present = {name: one for name, one in sessions.items() if one is not None}
    times = measure(present, x, options.seconds, options.calls)
    least = {name: float(times[name].min()) if name in times else None for name in sessions}
    median = {name: float(np.median(times[name])) if name in times else None for name in sessions}
    gops = 2e-3 * layer.rows * layer.k * layer.n / (least["shift 4"] or 1.0)
    limit = floor("shift 4", layer.k, layer.n, layer.rows, setting, options.threads)
    return Row(layer, least, median, gops, limit)


def table(rows: list[Row]) -> str:
    names = list(rows[0].least)
    head = f"{'layer':<20} {'K x N':>10} {'rows':>5}" + "".join(f"{name:>9}" for name in names)
    lines = [head + f"{'GOP/s':>8}{'vs int8':>9}{'vs NBits':>9}{'of floor':>9}  bound"]
    for row in rows:
        layer = row.layer
        times = "".join(f"{'-' if us is None else f'{us:.1f}':>9}" for us in row.least.values())
        ratios = "".join(f"{'-' if r is None else f'{r:.2f}x':>9}" for r in (row.ratio("int8"), row.ratio("NBits")))
        shape = f"{layer.k}x{layer.n}"
        line = f"{layer.model:<20} {shape:>10} {layer.rows:>5}{times}{row.gops:>8.1f}{ratios}"
        lines.append(f"{line}{row.floor_fraction:>9.0%}  {row.floor.bound}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0, help="per layer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--calls", type=int, default=1, help="of a contender before the next one's turn")
    parser.add_argument("--only", default="", help="layers whose name holds this")
    options = parser.parse_args()
    setting = this_setting()
    layers = [layer for layer in SUITE if options.only in layer.model]
    rows = [bench(layer, options, setting) for layer in layers]
    print(f"{options.threads} thread(s); {setting.to_text()}")
    print(table(rows))
    results = [asdict(row) | {"floor_fraction": row.floor_fraction} for row in rows]
    setting.write(options.json, results, threads=options.threads, calls=options.calls)


if __name__ == "__main__":
    sys.exit(main())
