# SPDX-License-Identifier: Apache-2.0
"""A linear layer that is given codes against the same one given floats: what a producer of codes could save it.

    python runtime/bench/bench_linear_codes.py [--json FILE] [--seconds 1] [--widths 64,128,512] [--rows 1,16,128]

FusedLinear with ReLU, 4-bit weights, in turns: ``dynamic`` finds the range of every row, ``static`` knows one scale,
``codes`` is given the int8 codes of that scale. Ratios are of least times to ``static``: below 1 is faster. The floor
is the product at the speed of the 8-bit multiplication alone, or its weights read once, both measured at the start.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from bench_feed_forward import RANGE, layer
from bench_matmul import shift_table, shift_weight_bytes
from graph_session import open_graph
from onnx import TensorProto, helper, numpy_helper
from setting import Setting, this_setting
from taking_turns import taking_turns

STEP = 0.03  # of the codes


def linear(rng: np.random.Generator, width: int, scale: float, codes: bool) -> ort.InferenceSession:
    tensors = layer(rng, width, width, shift_table(4), "") | {"residual": np.zeros(1, np.float32)}
    tensors["x_scale"] = np.array([scale], np.float32)
    own = {"k": width, "bits": 4, "function": 0, "alpha": 0.0, "beta": float("inf"), "x_codes": int(codes)} | RANGE
    node = helper.make_node("FusedLinear", ["x", *tensors], ["y"], domain="ai.edgefold", **own)
    x = helper.make_tensor_value_info("x", TensorProto.INT8 if codes else TensorProto.FLOAT, ["m", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", width])
    weights = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    return open_graph(helper.make_graph([node], "bench", [x], [y], weights), 1)


def bench(width: int, rows: list[int], seconds: float, setting: Setting) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    given = {"dynamic": (0.0, False), "static": (STEP, False), "codes": (STEP, True)}
    sessions = {name: linear(rng, width, *form) for name, form in given.items()}
    results = []
    for m in rows:
        floats = rng.standard_normal((m, width)).astype(np.float32)
        codes = np.clip(np.rint(floats / STEP), -127, 127).astype(np.int8)
        calls = {
            name: partial(one.run, None, {"x": codes if name == "codes" else floats}) for name, one in sessions.items()
        }
        least = {name: float(times.min()) for name, times in taking_turns(calls, seconds).items()}
        floor = setting.floor(2.0 * m * width * width, shift_weight_bytes(width, width, 4)).us
        row: dict[str, Any] = {"width": width, "rows": m} | {
            f"{name}_us": round(time, 1) for name, time in least.items()
        }
        row |= {"of_floor": {name: round(floor / time, 3) for name, time in least.items()}}
        results.append(row | {"codes_to_static": round(least["codes"] / least["static"], 3)})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0, help="per width and number of rows")
    parser.add_argument("--widths", default="64,128,512,768")
    parser.add_argument("--rows", default="1,16,128,512")
    options = parser.parse_args()
    setting = this_setting()
    rows = [int(m) for m in options.rows.split(",")]
    results = [row for width in options.widths.split(",") for row in bench(int(width), rows, options.seconds, setting)]
    print(f"1 thread; {setting.to_text()}")
    head = f"{'K x N':>10} {'rows':>5} {'dynamic us':>11} {'static us':>10} {'codes us':>9}"
    print(f"{head} {'codes to static':>16} {'of floor':>9}")
    for r in results:
        times = f"{r['dynamic_us']:>11} {r['static_us']:>10} {r['codes_us']:>9} {r['codes_to_static']:>16}"
        print(f"{r['width']}x{r['width']:<5} {r['rows']:>5} {times} {r['of_floor']['codes']:>9.0%}")
    setting.write(options.json, results, threads=1)


if __name__ == "__main__":
    sys.exit(main())
