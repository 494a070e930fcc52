# SPDX-License-Identifier: Apache-2.0
"""ShiftMatMul against ONNX Runtime's own matrix products: one-node models, interleaved calls, one thread.

    python runtime/bench/bench_matmul.py [--json FILE] [--seconds 2] [--shapes 768x3072,384x1536] [--rows 1,4,16,64,128]

Prints the least and the median microseconds of a call (input quantization included), the ratio of the least of
MatMulNBits to it, above 1 is faster than MatMulNBits, and the fraction of its floor: the longer of its operations at
the speed of its multiplication alone, float or 8-bit, and its weights read once, both measured at the start of this
run. All rows of a table come from one process.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from graph_session import open_graph
from onnx import TensorProto, helper, numpy_helper
from setting import Floor, Number, Setting, this_setting
from taking_turns import taking_turns

BASELINE = "MatMulNBits"


def session(nodes: list[Any], tensors: dict[str, np.ndarray], k: int, n: int, threads: int) -> ort.InferenceSession:
    """A model of these nodes from x [m, k] to y [m, n]."""
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return open_graph(graph, threads)


def float32(rng: np.random.Generator, k: int, n: int, threads: int = 1) -> ort.InferenceSession:
    weight = rng.standard_normal((k, n)).astype(np.float32)
    return session([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, k, n, threads)


def int8_dynamic(rng: np.random.Generator, k: int, n: int, threads: int = 1) -> ort.InferenceSession:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "xs", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "s"], ["scale"]),
        helper.make_node("Mul", ["f", "scale"], ["y"]),
    ]
    weight = rng.integers(-127, 128, (k, n)).astype(np.int8)
    return session(nodes, {"w": weight, "s": np.full(n, 0.01, np.float32)}, k, n, threads)


def matmul_nbits(rng: np.random.Generator, k: int, n: int, threads: int = 1) -> ort.InferenceSession:
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=k, N=n, bits=4, block_size=32, accuracy_level=4
    )
    weight = rng.integers(0, 256, (n, k // 32, 16)).astype(np.uint8)
    return session([node], {"w": weight, "s": np.full(n * k // 32, 0.01, np.float32)}, k, n, threads)


def shift_matmul(rng: np.random.Generator, k: int, n: int, table: np.ndarray, threads: int = 1) -> ort.InferenceSession:
    bits = table.shape[1].bit_length() - 1
    panels = -(-n // 16)
    numbers = rng.integers(0, len(table), (2, panels, -(-k // 32), 8)).astype(np.uint8)
    tensors = {
        "codes": rng.integers(0, 256, (panels, -(-k // 4), 8 * bits)).astype(np.uint8),
        "selectors": numbers[0] | numbers[1] << 4 if len(table) > 1 else np.zeros((1, 1, 8), np.uint8),
        "table": table,
        "scales": np.full(n, 0.01, np.float32),
        "bias": np.zeros(1, np.float32),
        "x_scale": np.zeros(1, np.float32),
        "x_shifts": np.zeros(1, np.uint8),
    }
    attributes = {"k": k, "bits": bits, "activation_low": -127, "activation_high": 127, "layout": 1}
    node = helper.make_node("ShiftMatMul", ["x", *tensors], ["y"], domain="ai.edgefold", **attributes)
    return session([node], tensors, k, n, threads)


def shift_table(bits: int) -> np.ndarray:
    levels = np.maximum(np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)), 1 - 2 ** (bits - 1))
    return np.stack([levels << shift for shift in range(9 - bits)]).astype(np.int8)


def lut_table() -> np.ndarray:
    """Eight tables of eight magnitudes and a sign, a quarter octave apart."""
    steps = 127 * 2.0 ** (-np.arange(8)[:, None] / 4) * (np.arange(8) + 0.5) / 7.5
    positive = np.rint(steps)
    return np.concatenate([-positive[:, ::-1], positive], axis=1).astype(np.int8)


def shift_weight_bytes(k: int, n: int, bits: int) -> float:
    """Codes, selectors and scales of a packed matrix."""
    return k * n * bits / 8 + k * n / 64 + 4 * n


def floor(backend: str, k: int, n: int, rows: int, setting: Setting, threads: int = 1) -> Floor:
    """Of a product in that form."""
    weights = {
        "fp32": 4.0 * k * n,
        "int8 dynamic": float(k * n),
        BASELINE: k * n / 2 + k * n / 8,  # codes, and a float scale for 32 of them
        "shift 4": shift_weight_bytes(k, n, 4),
        "shift-lut 4": shift_weight_bytes(k, n, 4),
        "shift 8": shift_weight_bytes(k, n, 8),
    }
    number: Number = "float" if backend == "fp32" else "integer"
    return setting.floor(2.0 * rows * k * n, weights[backend], number, threads)


def measure(
    sessions: dict[str, ort.InferenceSession], x: np.ndarray, seconds: float, calls: int = 1
) -> dict[str, np.ndarray]:
    """Microseconds of every call, the sessions in turns of `calls` calls."""
    runs = {name: partial(one.run, None, {"x": x}) for name, one in sessions.items()}
    return taking_turns(runs, seconds, in_a_row=calls)


def bench(k: int, n: int, rows: list[int], seconds: float, setting: Setting) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    sessions = {
        "fp32": float32(rng, k, n),
        "int8 dynamic": int8_dynamic(rng, k, n),
        BASELINE: matmul_nbits(rng, k, n),
        "shift 4": shift_matmul(rng, k, n, shift_table(4)),
        "shift-lut 4": shift_matmul(rng, k, n, lut_table()),
        "shift 8": shift_matmul(rng, k, n, shift_table(8)),
    }
    results = []
    for m in rows:
        times = measure(sessions, rng.standard_normal((m, k)).astype(np.float32), seconds)
        base = times[BASELINE].min()
        for name, values in times.items():
            least = float(values.min())
            limit = floor(name, k, n, m, setting)
            results.append(
                {
                    "k": k,
                    "n": n,
                    "rows": m,
                    "backend": name,
                    "min_us": round(least, 1),
                    "median_us": round(float(np.median(values)), 1),
                    "gops": round(2e-3 * m * k * n / least, 1),
                    "ratio": round(float(base) / least, 2),
                    "of_floor": round(limit.us / least, 3),
                    "bound": limit.bound,
                }
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="per shape and number of rows")
    parser.add_argument("--shapes", default="768x3072,384x1536")
    parser.add_argument("--rows", default="1,4,16,64,128")
    options = parser.parse_args()
    rows = [int(m) for m in options.rows.split(",")]
    setting = this_setting()
    results = []
    for shape in options.shapes.split(","):
        k, n = (int(size) for size in shape.split("x"))
        results += bench(k, n, rows, options.seconds, setting)
    print(f"1 thread; {setting.to_text()}")
    head = f"{'K x N':>12} {'rows':>5} {'backend':<14} {'min us':>9} {'median us':>10} {'GOP/s':>7}"
    print(f"{head} {'vs ' + BASELINE:>15}{'of floor':>9}  bound")
    for r in results:
        shape = f"{r['k']}x{r['n']}"
        line = f"{shape:>12} {r['rows']:>5} {r['backend']:<14} {r['min_us']:>9} {r['median_us']:>10} {r['gops']:>7}"
        print(f"{line} {r['ratio']:>14}x{r['of_floor']:>9.0%}  {r['bound']}")
    setting.write(options.json, results, threads=1)


if __name__ == "__main__":
    sys.exit(main())
