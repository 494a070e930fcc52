# SPDX-License-Identifier: Apache-2.0
"""A decoder's step of attention, its cache of keys and values included: one layer, interleaved calls.

    python runtime/bench/bench_cache.py [--json FILE] [--seconds 2] [--threads 1] [--heads 12 --key-heads 12 --depth 64]

Every contender takes the queries, keys and values of one new position and the past, and gives the result and the new
past. ``float32`` is Concat, MatMul, Mul, Softmax and MatMul; ``MultiHeadAttention`` ONNX Runtime's own operator with
its past; ``int8 dynamic`` what quantize_dynamic makes of the first where it may quantize products of two activations;
``float cache`` ShiftAttention behind the same Concats; ``int8 cache`` QuantizeRows and CachedAttention over codes.
Inputs are bound and outputs stay ONNX Runtime's, so that nothing is copied to numpy. Contenders take turns at single
calls, so that each finds its past in memory rather than in a cache, as the step of a layer of many does. ``floor``
is the time that the bytes which int8 codes cannot do without, past in, present out, take at the bandwidth of a copy of
as many bytes, measured in the same turns. Ratios are of least times; above 1 is faster.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from graph_session import open_graph, open_model, quantized_dynamically
from onnx import TensorProto, helper, numpy_helper
from setting import this_setting
from taking_turns import taking_turns

PASTS = (128, 512, 1024, 2048)
Arrays = dict[str, np.ndarray]
FLOATS = ["q", "k", "v", "past_k", "past_v"]
PRESENT = ["y", "present_k", "present_v"]
CODED = ["past_k_scales", "past_v_scales", "present_k_scales", "present_v_scales"]


def graph(nodes: list[Any], inputs: Arrays, outputs: dict[str, int], **constants: np.ndarray) -> Any:
    """A graph of these nodes from the inputs to outputs of these types."""
    return helper.make_graph(
        nodes,
        "bench",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )


def written_out(shared: int) -> list[Any]:
    """Attention in standard operators; heads of queries beyond those of keys are rows of the products."""
    split = [helper.make_node("Reshape", ["q", "by_key_heads"], ["rows"])] if shared > 1 else []
    joined = [helper.make_node("Reshape", ["o", "by_heads"], ["y"])] if shared > 1 else []
    return [
        *(helper.make_node("Concat", [f"past_{n}", n], [f"present_{n}"], axis=2) for n in "kv"),
        *split,
        helper.make_node("Transpose", ["present_k"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["rows" if shared > 1 else "q", "t"], ["p"]),
        helper.make_node("Mul", ["p", "c"], ["d"]),
        helper.make_node("Softmax", ["d"], ["w"]),
        helper.make_node("MatMul", ["w", "present_v"], ["o" if shared > 1 else "y"]),
        *joined,
    ]


def own(name: str, inputs: list[str], scale: float) -> Any:
    return helper.make_node(name, inputs, ["y"], domain="ai.edgefold", scale=scale, causal=0)


def coded(scale: float) -> list[Any]:
    nodes = []
    for n in "kv":
        nodes.append(helper.make_node("QuantizeRows", [n], [f"{n}_codes", f"{n}_scales"], domain="ai.edgefold"))
        nodes.append(helper.make_node("Concat", [f"past_{n}", f"{n}_codes"], [f"present_{n}"], axis=2))
        scales = [f"past_{n}_scales", f"{n}_scales"]
        nodes.append(helper.make_node("Concat", scales, [f"present_{n}_scales"], axis=2))
    operands = ["q", "present_k", "present_k_scales", "present_v", "present_v_scales", "m"]
    return [*nodes, own("CachedAttention", operands, scale)]


def contenders(shape: tuple[int, int, int], past: int, threads: int) -> dict[str, Callable[[], Any]]:
    """Name -> a step."""
    heads, key_heads, depth = shape
    rng = np.random.default_rng(0)
    scale = depth**-0.5
    sizes = {"q": (heads, 1), "k": (key_heads, 1), "v": (key_heads, 1)}
    sizes |= dict.fromkeys(("past_k", "past_v"), (key_heads, past))
    floats = {n: rng.standard_normal((1, *size, depth)).astype(np.float32) for n, size in sizes.items()}
    codes = {n: x for n, x in floats.items() if not n.startswith("past")}
    for name in ("past_k", "past_v"):
        steps = np.abs(floats[name]).max(-1, keepdims=True) / np.float32(127)
        codes |= {name: np.rint(floats[name] / steps).astype(np.int8), f"{name}_scales": steps}
    kinds = dict.fromkeys(PRESENT, TensorProto.FLOAT)
    code_kinds = {n: TensorProto.INT8 if n.startswith("present") else TensorProto.FLOAT for n in PRESENT}
    code_kinds |= dict.fromkeys(CODED[2:], TensorProto.FLOAT)
    no_mask = np.zeros((1, 1, 1, 1), np.float32)
    numbers: Arrays = {"c": np.array(scale, np.float32)}
    if heads > key_heads:
        numbers |= {"by_key_heads": np.array([1, key_heads, -1, depth]), "by_heads": np.array([1, heads, 1, depth])}
    plain = graph(written_out(heads // key_heads), floats, kinds, **numbers)
    concat = [helper.make_node("Concat", [f"past_{n}", n], [f"present_{n}"], axis=2) for n in "kv"]
    shifted = graph(
        [*concat, own("ShiftAttention", ["q", "present_k", "present_v", "m"], scale)], floats, kinds, m=no_mask
    )
    made = {
        "float32": (open_graph(plain, threads), floats),
        "int8 dynamic": (open_model(quantized_dynamically(plain), threads), floats),
        "float cache": (open_graph(shifted, threads), floats),
        "int8 cache": (open_graph(graph(coded(scale), codes, code_kinds, m=no_mask), threads), codes),
    }
    if heads == key_heads:
        joined = floats | {n: floats[n].reshape(1, 1, heads * depth) for n in "qkv"}
        names = ["q", "k", "v", "", "", "", "past_k", "past_v"]
        fused = helper.make_node("MultiHeadAttention", names, PRESENT, domain="com.microsoft", num_heads=heads)
        made["MultiHeadAttention"] = (open_graph(graph([fused], joined, kinds), threads), joined)
    return {name: _step(session, feeds) for name, (session, feeds) in made.items()} | {"floor": _copy(codes)}


def _step(session: ort.InferenceSession, feeds: Arrays) -> Callable[[], Any]:
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for one in session.get_outputs():
        binding.bind_output(one.name)
    return lambda: session.run_with_iobinding(binding)


def _copy(codes: Arrays) -> Callable[[], Any]:
    past = [array for name, array in codes.items() if name.startswith("past")]
    present = [np.empty_like(array) for array in past]

    def copy() -> None:
        for source, target in zip(past, present, strict=True):
            np.copyto(target, source)

    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="per length of the past")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--key-heads", type=int, default=12)
    parser.add_argument("--depth", type=int, default=64)
    options = parser.parse_args()
    setting = this_setting("row_dots")
    print(f"{options.threads} thread(s); {setting.to_text()}")
    shape = (options.heads, options.key_heads, options.depth)
    head = f"{'heads, of keys, depth, past':>28} {'':<20} {'min us':>9} {'median us':>10}"
    print(f"{head} {'vs float32':>11}{'of floor':>9}")
    results = []
    for past in PASTS:
        times = taking_turns(contenders(shape, past, options.threads), options.seconds)
        least = {name: min(values) for name, values in times.items()}
        for name, values in times.items():
            row = {
                "shape": [*shape, past],
                "backend": name,
                "min_us": least[name],
                "median_us": float(np.median(values)),
            }
            row |= {"vs_float32": least["float32"] / least[name], "of_floor": least["floor"] / least[name]}
            results.append(row)
            print(
                f"{'x'.join(map(str, (*shape, past))):>28} {name:<20} {least[name]:>9.1f} {row['median_us']:>10.1f} "
                f"{row['vs_float32']:>10.2f}x{row['of_floor']:>9.0%}"
            )
    setting.write(options.json, results, threads=options.threads)


if __name__ == "__main__":
    sys.exit(main())
