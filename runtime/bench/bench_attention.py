# SPDX-License-Identifier: Apache-2.0
"""Attention on integers against ONNX Runtime's in float32: one layer, interleaved calls.

    python runtime/bench/bench_attention.py [--json FILE] [--seconds 2] [--threads 1]

``float32`` is MatMul, Mul, Softmax and MatMul on heads already split, as ShiftAttention reads them; ``int8 dynamic``
what quantize_dynamic makes of that where it may quantize products of activations. ONNX Runtime's own
``MultiHeadAttention`` also splits and joins the heads, as ShiftMultiHeadAttention does. Ratios are of least times;
above 1 is faster. ``peak`` is the share of the time that the two products alone would take at the rate of the
processor's 8-bit multiplication, measured at the start of this run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from graph_session import open_graph, open_model, quantized_dynamically
from onnx import TensorProto, helper, numpy_helper
from setting import this_setting
from taking_turns import taking_turns

# Heads, queries, keys, depth: MiniLM at two lengths, ViT-S at 224, a decoder's step at three lengths of its cache.
SHAPES = [
    (12, 32, 32, 32),
    (12, 128, 128, 32),
    (6, 197, 197, 64),
    (12, 512, 512, 64),
    (12, 1, 128, 64),
    (12, 1, 512, 64),
    (12, 1, 2048, 64),
]
NO_MASK = np.zeros((1, 1, 1, 1), np.float32)
Inputs = dict[str, np.ndarray]


def graph_of(nodes: list[Any], inputs: Inputs, **constants: np.ndarray) -> onnx.GraphProto:
    """These nodes from the inputs to y."""
    return helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )


def session(nodes: list[Any], inputs: Inputs, threads: int, **constants: np.ndarray) -> ort.InferenceSession:
    """A model of these nodes from the inputs to y."""
    return open_graph(graph_of(nodes, inputs, **constants), threads)


def dynamic_session(nodes: list[Any], inputs: Inputs, threads: int, **constants: np.ndarray) -> ort.InferenceSession:
    """The same, its products quantized by ONNX Runtime."""
    return open_model(quantized_dynamically(graph_of(nodes, inputs, **constants)), threads)


def contenders(heads: int, rows: int, keys: int, depth: int, threads: int) -> dict[str, Any]:
    """Name -> a call without arguments."""
    rng = np.random.default_rng(0)
    scale = depth**-0.5
    sizes = {"q": rows, "k": keys, "v": keys}
    split = {name: rng.standard_normal((1, heads, size, depth)).astype(np.float32) for name, size in sizes.items()}
    swapped = split | {"k": np.ascontiguousarray(split["k"].swapaxes(2, 3))}
    joined = {name: x[0].swapaxes(0, 1).reshape(1, -1, heads * depth) for name, x in split.items()}
    names = ["q", "k", "v", "m"]
    form = {"domain": "ai.edgefold", "scale": scale, "causal": 0}
    integer = helper.make_node("ShiftAttention", names, ["y"], **form)
    side_by_side = helper.make_node(
        "ShiftMultiHeadAttention", names, ["y"], num_heads=heads, kv_num_heads=heads, **form
    )
    written_out = [
        helper.make_node("MatMul", ["q", "k"], ["p"]),
        helper.make_node("Mul", ["p", "c"], ["d"]),
        helper.make_node("Softmax", ["d"], ["w"]),
        helper.make_node("MatMul", ["w", "v"], ["y"]),
    ]
    own = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", num_heads=heads)
    made = {
        "float32": (session(written_out, swapped, threads, c=np.array(scale, np.float32)), swapped),
        "int8 dynamic": (dynamic_session(written_out, swapped, threads, c=np.array(scale, np.float32)), swapped),
        "MultiHeadAttention": (session([own], joined, threads), joined),
        "ShiftAttention": (session([integer], split, threads, m=NO_MASK), split),
        "ShiftMultiHeadAttention": (session([side_by_side], joined, threads, m=NO_MASK), joined),
    }
    return {name: (lambda one=one, feeds=feeds: one.run(None, feeds)) for name, (one, feeds) in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="per shape")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    setting = this_setting()
    print(f"{options.threads} thread(s); {setting.to_text()}")
    print(
        f"{'heads x rows x keys x depth':>28} {'':<24} {'min us':>9} {'median us':>10} {'vs float32':>11} "
        f"{'vs MHA':>7} {'peak':>5}"
    )
    results = []
    peak = setting.ceilings.integer_operations * options.threads
    for shape in SHAPES:
        times = taking_turns(contenders(*shape, options.threads), options.seconds)
        least = {name: min(values) for name, values in times.items()}
        for name, values in times.items():
            row = {"shape": shape, "backend": name, "min_us": least[name], "median_us": float(np.median(values))}
            row["of_peak"] = 4 * np.prod(shape) / peak / (least[name] * 1e-6)
            row |= {"vs_float32": least["float32"] / least[name], "vs_mha": least["MultiHeadAttention"] / least[name]}
            results.append(row)
            print(
                f"{'x'.join(map(str, shape)):>28} {name:<24} {least[name]:>9.1f} {row['median_us']:>10.1f} "
                f"{row['vs_float32']:>10.2f}x {row['vs_mha']:>6.2f}x {row['of_peak']:>5.0%}"
            )
    setting.write(options.json, results, threads=options.threads)


if __name__ == "__main__":
    sys.exit(main())
