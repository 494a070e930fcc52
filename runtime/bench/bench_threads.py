# SPDX-License-Identifier: Apache-2.0
"""What a second thread is worth to linear layers of 64 rows and more: ShiftMatMul beside ONNX Runtime's products.

    python runtime/bench/bench_threads.py [--json FILE] [--seconds 2] [--threads 2] [--only bert]

One-node models through `session.run`, with one thread and with several in turn, in one process. Prints the least
microseconds of a call and how many times faster the threads are; of `shift 4` the speed with all threads, the fraction
of its floor (of that many cores, measured on one at the start of this run), and what dividing a call costs: its
microseconds beyond a fair share of those of one thread, in which threads are woken, wait, and leave the rest to one.
Both cores must be free at the same time for that: on a shared machine give the process real-time priority
(`chrt -r 1`), or the figures tell of the other processes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from bench_linear import SUITE, Layer, backends
from bench_matmul import floor, measure
from setting import Setting, this_setting

CONTENDERS = ("fp32", "int8", "shift 4")
LAYERS = (*(layer for layer in SUITE if layer.rows >= 64 and layer.k >= 384), Layer("minilm up", 384, 1536, 64))


def bench(layer: Layer, threads: int, seconds: float, setting: Setting) -> dict[str, Any]:
    sessions = {
        (name, count): session
        for count in (1, threads)
        for name, session in backends(layer, count).items()
        if name in CONTENDERS
    }
    x = np.random.default_rng(1).standard_normal((layer.rows, layer.k)).astype(np.float32)
    times = measure({f"{name}/{count}": session for (name, count), session in sessions.items()}, x, seconds)
    row: dict[str, Any] = {"model": layer.model, "k": layer.k, "n": layer.n, "rows": layer.rows}
    for name in CONTENDERS:
        one, many = (float(times[f"{name}/{count}"].min()) for count in (1, threads))
        row[name] = {"one_us": round(one, 1), "many_us": round(many, 1), "ratio": round(one / many, 2)}
    ours, limit = row["shift 4"], floor("shift 4", layer.k, layer.n, layer.rows, setting, threads)
    row["gops"] = round(2e-3 * layer.rows * layer.k * layer.n / ours["many_us"], 1)
    row |= {"of_floor": round(limit.us / ours["many_us"], 3), "bound": limit.bound}
    return row | {"dividing_us": round(ours["many_us"] - ours["one_us"] / threads, 1)}


def table(rows: list[dict[str, Any]], threads: int) -> str:
    lines = [
        f"{'layer':<20} {'K x N':>10} {'rows':>5}"
        + "".join(f"{name + f', 1 / {threads}':>24}" for name in CONTENDERS)
        + f"{'GOP/s':>8}{'of floor':>9}{'dividing us':>12}"
    ]
    for row in rows:
        figures = [row[name] for name in CONTENDERS]
        cells = "".join(f"{one['one_us']:>9.0f} {one['many_us']:>7.0f} {one['ratio']:>5.2f}x" for one in figures)
        shape = f"{row['k']}x{row['n']}"
        ours = f"{row['gops']:>8.0f}{row['of_floor']:>9.0%}{row['dividing_us']:>12.0f}"
        lines.append(f"{row['model']:<20} {shape:>10} {row['rows']:>5}{cells}{ours}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="per layer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="layers whose name holds this")
    options = parser.parse_args()
    setting = this_setting()
    layers = [layer for layer in LAYERS if options.only in layer.model]
    rows = [bench(layer, options.threads, options.seconds, setting) for layer in layers]
    print(f"1 and {options.threads} threads, least microseconds; {setting.to_text()}")
    print(table(rows, options.threads))
    setting.write(options.json, rows, threads=options.threads)


if __name__ == "__main__":
    sys.exit(main())
