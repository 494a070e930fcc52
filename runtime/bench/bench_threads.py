# SPDX-License-Identifier: Apache-2.0
"""What a second thread is worth to linear layers of 64 rows and more: ShiftMatMul beside ONNX Runtime's products.

    python runtime/bench/bench_threads.py [--json FILE] [--seconds 2] [--threads 2] [--only bert]

One-node models through `session.run`, with one thread and with several in turn, in one process. Prints the least
microseconds of a call and how many times faster the threads are. Both cores must be free at the same time for that: on
a shared machine give the process real-time priority (`chrt -r 1`), or the figures tell of the other processes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from bench_linear import SUITE, Layer, backends
from bench_matmul import measure

CONTENDERS = ("fp32", "int8", "shift 4")
LAYERS = (*(layer for layer in SUITE if layer.rows >= 64 and layer.k >= 384), Layer("minilm up", 384, 1536, 64))


def bench(layer: Layer, threads: int, seconds: float) -> dict[str, Any]:
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
    return row


def table(rows: list[dict[str, Any]], threads: int) -> str:
    lines = [
        f"{'layer':<20} {'K x N':>10} {'rows':>5}" + "".join(f"{name + f', 1 / {threads}':>24}" for name in CONTENDERS)
    ]
    for row in rows:
        figures = [row[name] for name in CONTENDERS]
        cells = "".join(f"{one['one_us']:>9.0f} {one['many_us']:>7.0f} {one['ratio']:>5.2f}x" for one in figures)
        shape = f"{row['k']}x{row['n']}"
        lines.append(f"{row['model']:<20} {shape:>10} {row['rows']:>5}{cells}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="per layer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="layers whose name holds this")
    options = parser.parse_args()
    rows = [bench(layer, options.threads, options.seconds) for layer in LAYERS if options.only in layer.model]
    print(f"1 and {options.threads} threads, ONNX Runtime {ort.__version__}; least microseconds, and their ratio")
    print(table(rows, options.threads))
    if options.json:
        setting = {"threads": options.threads, "onnxruntime": ort.__version__}
        options.json.write_text(json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
