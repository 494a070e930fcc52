# SPDX-License-Identifier: Apache-2.0
"""FusedFeedForward with GELU against its own parts and ONNX Runtime's int8 layers, interleaved calls, one thread.

    python runtime/bench/bench_feed_forward.py [--json FILE] [--seconds 3] [--shapes 384x1536] [--rows 1,16,128]

``int8 layers`` are two dynamically quantized products of ONNX Runtime with nothing between them, ``int8 with Gelu`` has
Gelu there; ``layers and Gelu`` is ShiftMatMul, Gelu, ShiftMatMul. Ratios are of least times to `int8 layers`: above 1
is faster. The floor is the longer of the two products at the speed of the 8-bit multiplication alone and their weights
read once, both measured at the start of this run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from bench_matmul import lut_table, measure, session, shift_table, shift_weight_bytes
from onnx import TensorProto, helper
from setting import Setting, this_setting

BASELINE = "int8 layers"
GELU = 6
PARTS = ("codes", "selectors", "table", "scales", "bias", "x_scale", "x_shifts")
RANGE = {"activation_low": -127, "activation_high": 127}


def layer(rng: np.random.Generator, k: int, n: int, table: np.ndarray, prefix: str) -> dict[str, np.ndarray]:
    bits = table.shape[1].bit_length() - 1
    numbers = rng.integers(0, len(table), (2, n // 16, k // 32, 8)).astype(np.uint8)
    tensors = (
        rng.integers(0, 256, (n // 16, k // 4, 8 * bits)).astype(np.uint8),
        numbers[0] | numbers[1] << 4 if len(table) > 1 else np.zeros((1, 1, 8), np.uint8),
        table,
        np.full(n, 0.001, np.float32),
        np.zeros(n, np.float32),
        np.zeros(1, np.float32),
        np.zeros(1, np.uint8),
    )
    return {prefix + name: tensor for name, tensor in zip(PARTS, tensors, strict=True)}


def ours(rng: np.random.Generator, k: int, h: int, table: np.ndarray) -> dict[str, ort.InferenceSession]:
    """The fused operator, and the operators that it stands for, on the same weights."""
    bits = table.shape[1].bit_length() - 1
    tensors = layer(rng, k, h, table, "up_") | layer(rng, h, k, table, "down_")
    own = {"up_k": k, "down_k": h, "function": GELU, "alpha": 0.0, "beta": 0.0, "up_bits": bits, "down_bits": bits}
    own |= {prefix + name: value for prefix in ("up_", "down_") for name, value in RANGE.items()}
    whole = tensors | {"residual": np.zeros(1, np.float32)}
    fused = helper.make_node("FusedFeedForward", ["x", *whole], ["y"], domain="ai.edgefold", **own)

    def product(x: str, prefix: str, depth: int, y: str) -> Any:
        inputs = [x, *(prefix + name for name in PARTS)]
        return helper.make_node("ShiftMatMul", inputs, [y], domain="ai.edgefold", k=depth, bits=bits, **RANGE)

    parts = [product("x", "up_", k, "a"), helper.make_node("Gelu", ["a"], ["g"]), product("g", "down_", h, "y")]
    return {"fused": session([fused], whole, k, k, 1), "layers and Gelu": session(parts, tensors, k, k, 1)}


def int8(rng: np.random.Generator, k: int, h: int, gelu: bool) -> ort.InferenceSession:
    tensors: dict[str, np.ndarray] = {}

    def product(x: str, depth: int, width: int, y: str) -> list[Any]:
        tensors[f"{y}.w"] = rng.integers(-127, 128, (depth, width)).astype(np.int8)
        tensors[f"{y}.s"] = np.full(width, 0.001, np.float32)
        return [
            helper.make_node("DynamicQuantizeLinear", [x], [f"{y}.q", f"{y}.x", f"{y}.z"]),
            helper.make_node("MatMulInteger", [f"{y}.q", f"{y}.w", f"{y}.z"], [f"{y}.acc"]),
            helper.make_node("Cast", [f"{y}.acc"], [f"{y}.f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{y}.x", f"{y}.s"], [f"{y}.scale"]),
            helper.make_node("Mul", [f"{y}.f", f"{y}.scale"], [y]),
        ]

    between = [helper.make_node("Gelu", ["a"], ["g"])] if gelu else []
    nodes = [*product("x", k, h, "a"), *between, *product("g" if gelu else "a", h, k, "y")]
    return session(nodes, tensors, k, k, 1)


def bench(k: int, h: int, rows: list[int], seconds: float, setting: Setting) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    sessions = {BASELINE: int8(rng, k, h, False), "int8 with Gelu": int8(rng, k, h, True)}
    for method, table in (("shift 4", shift_table(4)), ("shift-lut 4", lut_table()), ("shift 8", shift_table(8))):
        sessions |= {f"{method}, {name}": one for name, one in ours(rng, k, h, table).items()}
    results = []
    for m in rows:
        times = measure(sessions, rng.standard_normal((m, k)).astype(np.float32), seconds)
        for name, values in times.items():
            least = float(values.min())
            row = {"k": k, "h": h, "rows": m, "backend": name, "min_us": round(least, 1)}
            row |= {"median_us": round(float(np.median(values)), 1), "gops": round(4e-3 * m * k * h / least, 1)}
            bits = 4 if " 4," in name else 8
            limit = setting.floor(4.0 * m * k * h, shift_weight_bytes(k, h, bits) + shift_weight_bytes(h, k, bits))
            row |= {"ratio": round(float(times[BASELINE].min()) / least, 2)}
            results.append(row | {"of_floor": round(limit.us / least, 3), "bound": limit.bound})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0, help="per shape and number of rows")
    parser.add_argument("--shapes", default="384x1536,768x3072")
    parser.add_argument("--rows", default="1,16,128")
    options = parser.parse_args()
    setting = this_setting()
    results = []
    for shape in options.shapes.split(","):
        k, h = (int(size) for size in shape.split("x"))
        results += bench(k, h, [int(m) for m in options.rows.split(",")], options.seconds, setting)
    print(f"1 thread; {setting.to_text()}")
    head = f"{'K x H':>10} {'rows':>5} {'backend':<28} {'min us':>9} {'median us':>10} {'GOP/s':>7}"
    print(f"{head} {'vs ' + BASELINE:>15}{'of floor':>9}  bound")
    for r in results:
        shape = f"{r['k']}x{r['h']}"
        line = f"{r['min_us']:>9} {r['median_us']:>10} {r['gops']:>7} {r['ratio']:>14}x"
        print(f"{shape:>10} {r['rows']:>5} {r['backend']:<28} {line}{r['of_floor']:>9.0%}  {r['bound']}")
    setting.write(options.json, results, threads=1)


if __name__ == "__main__":
    sys.exit(main())
