# SPDX-License-Identifier: Apache-2.0
"""Linear layers against ggml's Q4_0 weights with Q8_0 activations, repacked for this CPU, and ONNX Runtime's products.

    python runtime/bench/bench_peer.py GGML_FOLDER [--json FILE] [--seconds 10] [--shapes 768x3072] [--rows 1,16,64]

GGML_FOLDER holds the shared libraries of a ggml that you built. All run on one thread and in turns. EdgeFold and ONNX
Runtime run one-node models through `session.run`, which costs them some 8 microseconds a call; ggml computes a graph of
one node on operands in place. Everyone quantizes float rows within the call. ggml's result is checked against the
product with the decoded weights first. Times are those that the calling thread, which does all the work, has had a core
for. Prints the least microseconds of a call, GOP/s (two operations a multiply-add) of ggml and of EdgeFold's two
methods, the time of ggml over theirs: above 1 is faster than ggml, and the fraction of its floor that `shift` reaches:
the longer of its operations at the speed of the 8-bit multiplication alone and its weights read once, both measured at
the start of this run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ggml_product
import numpy as np
from bench_matmul import float32, floor, int8_dynamic, lut_table, matmul_nbits, shift_matmul, shift_table
from ggml_product import Ggml
from setting import Setting, this_setting
from taking_turns import taking_turns

PEER = "ggml Q4_0"
OURS = ("shift 4", "shift-lut 4")
OTHERS = ("fp32", "int8 dynamic", "MatMulNBits")
HEADER = (
    f"{'K x N':>10} {'rows':>4}"
    + "".join(f"{name:>14}" for name in (PEER, *OURS, *OTHERS))
    + "".join(f"{name:>8}" for name in ("GOP/s:", "shift", "lut"))
    + "".join(f"{name:>9}" for name in ("/ shift", "/ lut", "of floor"))
)
ROUNDING = 0.02  # relative error that 8-bit activations may bring


def peer(ggml: Ggml, rng: np.random.Generator, k: int, n: int, x: np.ndarray) -> Callable[[], None]:
    blocks, weight = ggml_product.quantize(rng.standard_normal((k, n)).astype(np.float32))
    product = ggml_product.Product(ggml, blocks, k, x)
    product()
    exact = x @ weight
    error = float(np.linalg.norm(product.y() - exact) / np.linalg.norm(exact))
    if error > ROUNDING:
        raise RuntimeError(f"ggml's product is off by {error:.3g}: this program does not fit that version")
    return product


def contenders(ggml: Ggml, k: int, n: int, rows: int) -> dict[str, Callable[[], Any]]:
    """Name -> a call without arguments."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, k)).astype(np.float32)
    sessions = {
        "shift 4": shift_matmul(rng, k, n, shift_table(4)),
        "shift-lut 4": shift_matmul(rng, k, n, lut_table()),
        "fp32": float32(rng, k, n),
        "int8 dynamic": int8_dynamic(rng, k, n),
        "MatMulNBits": matmul_nbits(rng, k, n),
    }
    calls = {name: (lambda one=one: one.run(None, {"x": x})) for name, one in sessions.items()}
    return {PEER: peer(ggml, rng, k, n, x), **calls}


def bench(ggml: Ggml, k: int, n: int, rows: int, seconds: float, setting: Setting) -> dict[str, Any]:
    times = taking_turns(contenders(ggml, k, n, rows), seconds, clock=time.thread_time_ns)
    least = {name: round(min(values), 1) for name, values in times.items()}
    medians = {name: round(float(np.median(values)), 1) for name, values in times.items()}
    limit = floor("shift 4", k, n, rows, setting)
    row = {"k": k, "n": n, "rows": rows, "min_us": least, "median_us": medians}
    return row | {"of_floor": round(limit.us / least["shift 4"], 3), "bound": limit.bound}


def line(row: dict[str, Any]) -> str:
    least = row["min_us"]
    gops = [2e-3 * row["rows"] * row["k"] * row["n"] / least[name] for name in (PEER, *OURS)]
    ratios = [f"{least[PEER] / least[name]:.2f}x" for name in OURS]
    shape = f"{row['k']}x{row['n']}"
    return (
        f"{shape:>10} {row['rows']:>4}"
        + "".join(f"{us:>14}" for us in least.values())
        + "".join(f"{one:>8.0f}" for one in gops)
        + "".join(f"{one:>9}" for one in ratios)
        + f"{row['of_floor']:>9.0%}  {row['bound']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ggml", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="per shape and number of rows")
    parser.add_argument("--shapes", default="384x1536,768x3072,4096x4096")
    parser.add_argument("--rows", default="1,16,64")
    options = parser.parse_args()
    ggml = Ggml(options.ggml)
    setting = this_setting(ggml=ggml.version)
    print(f"1 thread, microseconds of a call; {setting.to_text()}")
    print(HEADER)
    results: list[dict[str, Any]] = []
    for shape in options.shapes.split(","):
        k, n = (int(size) for size in shape.split("x"))
        for rows in (int(m) for m in options.rows.split(",")):
            results.append(bench(ggml, k, n, rows, options.seconds, setting))
            print(line(results[-1]), flush=True)
    setting.write(options.json, results, threads=1)


if __name__ == "__main__":
    sys.exit(main())
