# SPDX-License-Identifier: Apache-2.0
"""Throws malformed nodes at the operator library; a process of its own, for what it looks for is a crash.

    [EDGEFOLD_OPS=LIBRARY] python tests/runtime/fuzz_boundary.py FIRST_SEED CASES [OPERATOR ...]

Every case is a node that works with one thing changed: an attribute, an initializer, or an input. It must be refused
with a message, or run: then twice with equal results, the second time into memory between two canaries. The last line
printed before a crash names the operator, the seed and the change.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]
Node = tuple[onnx.ModelProto, dict[str, Array]]  # and what it is fed

INTEGERS = [*range(-2, 10), *(sign * 2**power + step for power in (4, 5, 7, 8, 16, 31, 62) for sign in (-1, 1)
                              for step in (-1, 0, 1))]  # fmt: skip
FLOATS = (np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1e38, -1e38, 1e-45, 0.5)
TYPES = (np.float32, np.float64, np.uint8, np.int8, np.int32, np.int64)
GUARD, CANARY = 256, 0xA5


def nodes() -> dict[str, Callable[[np.random.Generator], Node]]:
    """Operator -> a working node of it."""
    return _of_rows() | _of_images()


def _of_rows() -> dict[str, Callable[[np.random.Generator], Node]]:
    import moe_oracle
    import one_node
    from oracle import random_weights
    from test_cached_attention import model as cached_attention
    from test_cached_attention import quantize_rows, random_cache
    from test_feed_forward import RELU
    from test_feed_forward import Block as FeedForwardBlock
    from test_fused_linear import Layer
    from test_l1_layer_normalization import model as l1_norm
    from test_shift_attention import model as attention
    from test_shift_multi_head_attention import model as multi_head_attention

    def matmul(rng: np.random.Generator) -> Node:
        weights = random_weights(rng, 40, 24, int(rng.integers(2, 9)), "rtn")
        bias = np.zeros(24, np.float32)
        made = one_node.matmul(weights, bias, float(rng.choice([0.0, 0.1])), -127, 127)
        return _parsed(made), {"x": rng.standard_normal((5, 40)).astype(np.float32)}

    def gather(rng: np.random.Generator) -> Node:
        made = one_node.gather(random_weights(rng, 40, 24, 4))
        return _parsed(made), {"x": rng.integers(0, 24, (3, 4))}

    def feed_forward(rng: np.random.Generator) -> Node:
        made = FeedForwardBlock(32, 64, 16).model()
        return made, {"x": rng.standard_normal((5, 32)).astype(np.float32)}

    def linear(rng: np.random.Generator) -> Node:
        residual = rng.standard_normal((5, 16)).astype(np.float32) if rng.integers(2) else None
        return Layer(32, 16, RELU).model(residual), {"x": rng.standard_normal((5, 32)).astype(np.float32)}

    def experts(rng: np.random.Generator) -> Node:
        made = moe_oracle.model(moe_oracle.random_layer(rng, (3, 32, 24), gated=bool(rng.integers(2))))
        x = rng.standard_normal((6, 32)).astype(np.float32)
        return made, {"x": x, "gates": moe_oracle.random_gates(rng, 6, 3, 2)}

    def attended(rng: np.random.Generator) -> Node:
        shapes = {"q": (1, 2, 5, 8), "k": (1, 2, 7, 8), "v": (1, 2, 7, 6), "mask": (1, 1, 5, 7)}
        feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        return _parsed(attention(list(feeds.values()), functions=False, causal=int(rng.integers(2)))), feeds

    def attended_side_by_side(rng: np.random.Generator) -> Node:
        shapes = {"q": (1, 5, 16), "k": (1, 7, 8), "v": (1, 7, 6), "mask": (1, 1, 5, 7)}
        feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        causal = int(rng.integers(2))
        return _parsed(multi_head_attention(list(feeds.values()), 2, 1, functions=False, causal=causal)), feeds

    def quantized(rng: np.random.Generator) -> Node:
        return _parsed(quantize_rows(functions=False)), {"x": rng.standard_normal((2, 3, 40)).astype(np.float32)}

    def cached(rng: np.random.Generator) -> Node:
        feeds = random_cache(rng, (1, 4, 2), (int(rng.integers(1, 6)), 7), (8, 6))
        return _parsed(cached_attention(feeds, functions=False, causal=int(rng.integers(2)))), feeds

    def normalized(rng: np.random.Generator) -> Node:
        x = rng.standard_normal((4, 33)).astype(np.float32)
        scale = rng.standard_normal((2, 33)).astype(np.float32)
        high = int(rng.choice([0, 127]))
        form = {"epsilon": 1e-5, "centred": 1, "activation_high": high}
        return l1_norm(x, scale[0], scale[1], np.zeros(1, np.uint8), **form), {"x": x}

    return {
        "ShiftMatMul": matmul,
        "ShiftGather": gather,
        "FusedLinear": linear,
        "FusedFeedForward": feed_forward,
        "ShiftMoE": experts,
        "ShiftAttention": attended,
        "ShiftMultiHeadAttention": attended_side_by_side,
        "QuantizeRows": quantized,
        "CachedAttention": cached,
        "L1LayerNormalization": normalized,
    }


def _of_images() -> dict[str, Callable[[np.random.Generator], Node]]:
    import test_channel_gate
    import test_code_lookup
    from conv_oracle import Geometry
    from conv_oracle import model as shift_conv
    from fused_conv import Block, conv_block, image
    from oracle import random_weights
    from test_fused_inverted_residual import inverted_residual

    def conv(rng: np.random.Generator) -> Node:
        group = int(rng.choice([1, 8]))
        g = Geometry(8, 8, (3, 3), (6, 7), pads=(1, 1, 1, 1), group=group)
        made = shift_conv(random_weights(rng, g.k, 8, 4), np.zeros(8, np.float32), 0.1, 0, 255, g)
        return _parsed(made), {"x": rng.standard_normal((2, 8, 6, 7)).astype(np.float32)}

    def block(rng: np.random.Generator) -> Node:
        form = Block((16, 16), (3, 3), pads=(1, 1, 1, 1), group=int(rng.choice([1, 2, 16])))
        x, y, residual = (str(rng.choice(["float", "float last", "u8", "s8", "u4", "s4"])) for _ in range(3))
        adds = not residual.startswith("float")
        made, feeds = conv_block(form, x, y, residual if adds else None, int(adds))
        return _parsed(made), feeds

    def residual_block(rng: np.random.Generator) -> Node:
        x, y = (str(rng.choice(["float", "u8", "u4"])) for _ in range(2))
        made, feeds = inverted_residual(x, y, residual=bool(rng.integers(2)))
        return _parsed(made), feeds

    def means(rng: np.random.Generator) -> Node:
        made, feeds = test_channel_gate.mean(image(rng, str(rng.choice(["u8", "s8"])), 70, (3, 5)))
        return _parsed(made), feeds

    def gated(rng: np.random.Generator) -> Node:
        x, y = (str(rng.choice(["u8", "s8"])) for _ in range(2))
        factors = rng.uniform(0, 1, (2, 20, 1, 1)).astype(np.float32)
        made, feeds = test_channel_gate.gate(image(rng, x, 20, (3, 5)), factors, y)
        return _parsed(made), feeds

    def looked_up(rng: np.random.Generator) -> Node:
        made, feeds = test_code_lookup.lookup(rng, (2, 3, 5, 7), str(rng.choice(["u8", "s8"])))
        return _parsed(made), {"x": feeds["x"]}

    return {
        "ShiftConv": conv,
        "FusedConvBlock": block,
        "FusedInvertedResidual": residual_block,
        "CodeMean": means,
        "CodeGate": gated,
        "CodeLookup": looked_up,
    }


def change(rng: np.random.Generator, model: onnx.ModelProto, feeds: dict[str, Array]) -> str:
    """Changes one thing of the node or of what it is fed, in place; says what."""
    graph, node = model.graph, model.graph.node[0]
    del model.functions[:]  # the library's kernel and nothing else
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.ClearField("shape")
    kinds = {"attribute": node.attribute, "initializer": graph.initializer, "input": graph.input}
    kind = rng.choice([kind for kind, there in kinds.items() if there])
    if kind == "attribute":
        attribute = node.attribute[int(rng.integers(len(node.attribute)))]
        if rng.random() < 0.05:
            node.attribute.remove(attribute)
            return f"without {attribute.name}"
        value = _other_attribute(rng, helper.get_attribute_value(attribute))
        attribute.CopyFrom(helper.make_attribute(attribute.name, value, attr_type=_type_of(value)))
        return f"{attribute.name}={value}"
    if kind == "initializer":
        tensor = graph.initializer[int(rng.integers(len(graph.initializer)))]
        name = tensor.name
        array = _other_array(rng, numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(array, name))
        return f"{name} {array.dtype}{list(array.shape)}"
    name = str(rng.choice(sorted(feeds)))
    feeds[name] = _other_array(rng, feeds[name])
    for value in graph.input:
        if value.name == name:
            value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(feeds[name].dtype)
    return f"fed {name} {feeds[name].dtype}{list(feeds[name].shape)}"


def _other_attribute(rng: np.random.Generator, value: Any) -> Any:
    if rng.random() < 0.05:  # another type
        return 1.5 if isinstance(value, int | list) else 1
    if isinstance(value, float):
        return float(rng.choice(FLOATS))
    if isinstance(value, int):
        return int(rng.choice(INTEGERS))
    numbers = list(value)
    place = int(rng.integers(len(numbers)))
    return [
        numbers[:-1],
        [],
        [*numbers, 1],
        [*numbers[:place], int(rng.choice(INTEGERS)), *numbers[place + 1 :]],
        numbers[::-1],
    ][int(rng.integers(5))]


def _type_of(value: Any) -> int:
    if isinstance(value, list):
        return int(onnx.AttributeProto.INTS)
    return int(onnx.AttributeProto.FLOAT if isinstance(value, float) else onnx.AttributeProto.INT)


def _other_array(rng: np.random.Generator, array: Array) -> Array:
    """The array cut short, lengthened, reshaped, of another type, or with other contents."""
    axis = int(rng.integers(max(array.ndim, 1)))
    if array.ndim == 0 or (choice := int(rng.integers(9))) == 0:
        return _noise(rng, array)
    if choice == 1:
        return array.astype(rng.choice(TYPES))
    if choice == 2:
        return array.reshape(-1)
    if choice == 3:
        return array[None]
    if choice == 4:
        return np.swapaxes(array, 0, axis).copy()
    if choice == 5:
        return np.concatenate([array, array], axis)
    if choice == 6:
        return np.take(array, [], axis)
    if choice == 7:
        return np.delete(array, -1, axis)
    return np.array(array.reshape(-1)[:1]).reshape(()) if array.size else array[None]


def _noise(rng: np.random.Generator, array: Array) -> Array:
    if array.dtype == np.float32:
        return np.where(rng.random(array.shape) < 0.5, rng.choice(FLOATS, array.shape), array).astype(np.float32)
    if array.dtype == np.int64:
        return rng.choice(INTEGERS, array.shape)
    return np.frombuffer(rng.bytes(array.nbytes), array.dtype).reshape(array.shape).copy()


def attempt(model: onnx.ModelProto, feeds: dict[str, Array], threads: int, library: str) -> str:
    """ "" where the node ran, else the message of the refusal."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(library)
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs = dict(zip((one.name for one in session.get_outputs()), session.run(None, feeds), strict=True))
    except Exception as refusal:  # ONNX Runtime's exceptions have no common class
        if not type(refusal).__module__.startswith("onnxruntime"):
            raise
        return str(refusal)
    guarded = {name: np.full(y.nbytes + 2 * GUARD, CANARY, np.uint8) for name, y in outputs.items()}
    if any(y.size == 0 for y in outputs.values()):  # ONNX Runtime binds no memory to it
        return ""
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array.copy(order="C"))
    for name, y in outputs.items():
        binding.bind_output(name, "cpu", 0, y.dtype, y.shape, guarded[name].ctypes.data + GUARD)
    session.run_with_iobinding(binding)
    for name, y in outputs.items():
        inside = guarded[name][GUARD : GUARD + y.nbytes]
        assert inside.tobytes() == y.tobytes(), "another result the second time"
        around = np.delete(guarded[name], slice(GUARD, GUARD + y.nbytes))
        assert (around == CANARY).all(), "written outside of the output"
    return ""


def _parsed(made: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(made)


def main(first: int, cases: int, names: list[str]) -> None:
    from edgefold.runtime import ops_library

    library = os.environ.get("EDGEFOLD_OPS") or str(ops_library())
    every = nodes()
    for name in names or every:
        counts = {"ran": 0, "refused": 0}
        for seed in range(first, first + cases):
            rng = np.random.default_rng(seed)
            model, feeds = every[name](rng)
            what = change(rng, model, feeds)
            print(f"{name} seed {seed}: {what}", flush=True)
            message = attempt(model, feeds, 2 if seed % 4 == 0 else 1, library)
            assert not message or name in message or "node" in message, message
            counts["refused" if message else "ran"] += 1
        print(json.dumps({name: counts}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
