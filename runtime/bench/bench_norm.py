# SPDX-License-Identifier: Apache-2.0
"""L1LayerNormalization against ONNX Runtime's LayerNormalization and QuantizeLinear: interleaved calls, one thread.

    python runtime/bench/bench_norm.py [--json FILE] [--seconds 2] [--shapes 128x384,128x768]

Prints the least and the median microseconds of a call, the ratio of the least of ONNX Runtime's to it: above 1 is
faster, and the fraction of its floor: rows read and results written at the speed at which the nearest memory that holds
both is read, measured at the start of this run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from bench_matmul import measure
from onnx import TensorProto, helper, numpy_helper
from setting import Setting, this_setting

from edgefold.runtime import ops_library

THEIRS = ("LayerNormalization, QuantizeLinear", "LayerNormalization")
OURS = ("L1LayerNormalization, codes", "L1LayerNormalization, float")
PEERS = {**dict(zip(THEIRS, THEIRS, strict=True)), **dict(zip(OURS, THEIRS, strict=True))}


def session(nodes: list[Any], tensors: dict[str, np.ndarray], columns: int, y_type: int) -> ort.InferenceSession:
    """A model of these nodes from x [m, columns] to y."""
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", columns])],
        [helper.make_tensor_value_info("y", y_type, ["m", columns])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.edgefold", 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(str(ops_library()))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def theirs(columns: int, parameters: dict[str, np.ndarray], *, codes: bool) -> ort.InferenceSession:
    y = "h" if codes else "y"
    nodes = [helper.make_node("LayerNormalization", ["x", "gamma", "beta"], [y])]
    if not codes:
        return session(nodes, parameters, columns, TensorProto.FLOAT)
    nodes.append(helper.make_node("QuantizeLinear", ["h", "scale", "zero"], ["y"]))
    quantizer = {"scale": np.array(0.03, np.float32), "zero": np.array(0, np.int8)}
    return session(nodes, parameters | quantizer, columns, TensorProto.INT8)


def ours(columns: int, parameters: dict[str, np.ndarray], *, codes: bool) -> ort.InferenceSession:
    y_type = TensorProto.INT8 if codes else TensorProto.FLOAT
    attributes = {"epsilon": 1e-3, "centred": 1, "x_codes": 0, "activation_high": 127 if codes else 0}
    names = ["x", "gamma", "beta", "shifts"]
    node = helper.make_node("L1LayerNormalization", names, ["y"], domain="ai.edgefold", y_dtype=y_type, **attributes)
    return session([node], parameters | {"shifts": np.zeros(1, np.uint8)}, columns, y_type)


def bench(rows: int, columns: int, seconds: float, setting: Setting) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    parameters = {name: rng.standard_normal(columns).astype(np.float32) for name in ("gamma", "beta")}
    sessions = {
        THEIRS[0]: theirs(columns, parameters, codes=True),
        OURS[0]: ours(columns, parameters, codes=True),
        THEIRS[1]: theirs(columns, parameters, codes=False),
        OURS[1]: ours(columns, parameters, codes=False),
    }
    times = measure(sessions, rng.standard_normal((rows, columns)).astype(np.float32), seconds)
    least = {name: float(values.min()) for name, values in times.items()}
    written = {THEIRS[0]: 1, OURS[0]: 1, THEIRS[1]: 4, OURS[1]: 4}  # bytes of a result
    floors = {name: setting.floor(0, rows * columns * (4 + size)) for name, size in written.items()}
    return [
        {
            "rows": rows,
            "columns": columns,
            "backend": name,
            "min_us": round(least[name], 1),
            "median_us": round(float(np.median(values)), 1),
            "ratio": round(least[PEERS[name]] / least[name], 2),
            "of_floor": round(floors[name].us / least[name], 3),
            "bound": floors[name].bound,
        }
        for name, values in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="per shape")
    parser.add_argument("--shapes", default="128x384,128x768")
    options = parser.parse_args()
    setting = this_setting("l1_norm")
    results = []
    for shape in options.shapes.split(","):
        rows, columns = (int(size) for size in shape.split("x"))
        results += bench(rows, columns, options.seconds, setting)
    print(f"1 thread; {setting.to_text()}")
    print(f"{'rows x D':>9} {'backend':<35} {'min us':>8} {'median us':>10} {'ratio':>6}{'of floor':>9}  bound")
    for r in results:
        shape = f"{r['rows']}x{r['columns']}"
        line = f"{shape:>9} {r['backend']:<35} {r['min_us']:>8} {r['median_us']:>10} {r['ratio']:>5}x"
        print(f"{line}{r['of_floor']:>9.0%}  {r['bound']}")
    setting.write(options.json, results, threads=1)


if __name__ == "__main__":
    sys.exit(main())
