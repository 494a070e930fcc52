# SPDX-License-Identifier: Apache-2.0
"""ShiftMoE against every other form of the same mixture-of-experts layer in ONNX Runtime: interleaved calls.

    python runtime/bench/bench_moe.py [--json FILE] [--seconds 2] [--size 512x1024] [--experts 16] [--top 2]
                                      [--rows 1,8,64,512] [--threads 1,2]

Prints the least and the median microseconds of a call and two ratios of least times: of the fastest exported form, and
of QMoE, to it; above 1 is faster than those; and the fraction of its floor: the longer of the operations of the experts
that tokens were routed to, at the speed of the form's multiplication alone, float or 8-bit, and the weights of those
experts read once, both measured at the start of this run. Forms that compute every expert are held to the same. All
rows of a table come from one process. The forms that take a whole matrix for every token are left out above 64 tokens,
where their copies would fill the memory.
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
from moe_forms import EXPORTED, RUNTIMES, Array, Form, Size
from onnx import TensorProto, helper, numpy_helper
from setting import Floor, Setting, this_setting
from taking_turns import taking_turns

GATHERED_ROWS = 64


def session(form: Form, size: Size, threads: int) -> ort.InferenceSession:
    """A model of these nodes from what they read of the layer's inputs to y [T, D]."""
    nodes, tensors = form
    kinds = {
        "x": (TensorProto.FLOAT, size.d),
        "gates": (TensorProto.FLOAT, size.experts),
        "logits": (TensorProto.FLOAT, size.experts),
        "chosen": (TensorProto.INT64, size.top),
        "weights": (TensorProto.FLOAT, size.top),
    }
    read = {name for one in nodes for name in one.input}
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info(name, kind, ["t", n]) for name, (kind, n) in kinds.items() if name in read],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["t", size.d])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return open_graph(graph, threads)


def feeds(rng: np.random.Generator, size: Size, rows: int) -> dict[str, Array]:
    """Tokens, each routed to `top` experts drawn by chance."""
    chosen = np.argsort(rng.random((rows, size.experts)), axis=1)[:, : size.top]
    weights = rng.uniform(0.2, 1, (rows, size.top)).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    gates = np.zeros((rows, size.experts), np.float32)
    np.put_along_axis(gates, chosen, weights, axis=1)
    logits = np.where(gates > 0, np.log(np.maximum(gates, 1e-30)), -1e4).astype(np.float32)
    x = rng.standard_normal((rows, size.d)).astype(np.float32)
    return {"x": x, "gates": gates, "logits": logits, "chosen": chosen.astype(np.int64), "weights": weights}


def measure(sessions: dict[str, ort.InferenceSession], data: dict[str, Array], seconds: float) -> dict[str, Array]:
    """Microseconds of every call, each session with those of the data that it takes; at least three rounds."""
    own = {name: {one.name: data[one.name] for one in its.get_inputs()} for name, its in sessions.items()}
    return taking_turns({name: partial(its.run, None, own[name]) for name, its in sessions.items()}, seconds, rounds=3)


def floor(form: str, size: Size, data: dict[str, Array], threads: int, setting: Setting) -> Floor:
    """Of the experts that these tokens were routed to."""
    weights = 3 * size.d * size.f  # of an expert
    used = len(np.unique(data["chosen"]))
    operations = 2.0 * data["chosen"].size * weights
    if form.endswith(" 4"):
        scales = weights / 8 if form.startswith("QMoE") else weights / 64
        return setting.floor(operations, used * (weights / 2 + scales), threads=threads)
    return setting.floor(operations, used * 4.0 * weights, "float", threads)


def ratio(peer: float | None, own: float) -> float | None:
    """How many times as long the peer takes; None where it was left out."""
    return None if peer is None else round(peer / own, 2)


def bench(
    size: Size, rows: list[int], threads: int, seconds: float, forms: set[str], setting: Setting
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    wanted = {name: make for name, make in (EXPORTED | RUNTIMES).items() if not forms or name in forms}
    sessions = {name: session(make(rng, size), size, threads) for name, make in wanted.items()}
    results = []
    for count in rows:
        used = {name: its for name, its in sessions.items() if name != "gathered" or count <= GATHERED_ROWS}
        data = feeds(rng, size, count)
        times = measure(used, data, seconds)
        least = {name: float(values.min()) for name, values in times.items()}
        exported = min((least[name] for name in EXPORTED if name in least), default=None)
        for name, values in times.items():
            limit = floor(name, size, data, threads, setting)
            results.append(
                {
                    "threads": threads,
                    "rows": count,
                    "form": name,
                    "min_us": round(least[name], 1),
                    "median_us": round(float(np.median(values)), 1),
                    "vs_exported": ratio(exported, least[name]),
                    "vs_qmoe": ratio(least.get("QMoE 4"), least[name]),
                    "of_floor": round(limit.us / least[name], 3),
                    "bound": limit.bound,
                }
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="per number of rows and threads")
    parser.add_argument("--size", default="512x1024", help="widths of a token and of an expert")
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--top", type=int, default=2)
    parser.add_argument("--rows", default="1,8,64,512")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--forms", default="", help="names of the forms to compare; all without")
    options = parser.parse_args()
    d, f = (int(width) for width in options.size.split("x"))
    size = Size(d, f, options.experts, options.top)
    rows = [int(count) for count in options.rows.split(",")]
    forms = set(filter(None, options.forms.split(",")))
    setting = this_setting()
    print(f"{size}; {setting.to_text()}")
    head = f"{'threads':>7} {'rows':>5} {'form':<22} {'min us':>9} {'median us':>10} {'vs exported':>12}"
    print(f"{head} {'vs QMoE':>8}{'of floor':>9}  bound")
    results = []
    for threads in options.threads.split(","):
        for r in bench(size, rows, int(threads), options.seconds, forms, setting):
            results.append(r)
            line = f"{r['threads']:>7} {r['rows']:>5} {r['form']:<22} {r['min_us']:>9} {r['median_us']:>10}"
            ratios = f"{r['vs_exported'] or '-':>12} {r['vs_qmoe'] or '-':>8}"
            print(f"{line} {ratios}{r['of_floor']:>9.0%}  {r['bound']}", flush=True)
    setting.write(options.json, results, size=options.size, experts=options.experts, top=options.top)


if __name__ == "__main__":
    sys.exit(main())
