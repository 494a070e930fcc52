# SPDX-License-Identifier: Apache-2.0
"""Operators against ONNX Runtime, in the forms that are easy to get wrong; and the whole of onnx's own node tests."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="healing needs torch: pip install 'edgefold[heal]'")

from torch_graphs import assert_same, graph, weights  # noqa: E402

from edgefold.heal.graph_module import GraphModule, supports  # noqa: E402
from edgefold.heal.operators.node import torch_tensor  # noqa: E402

I64 = np.int64


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return weights(*shape, seed=seed)


# expression over x and named constants, opset, x, constants
CASES: dict[str, tuple[str, int, np.ndarray, dict[str, np.ndarray]]] = {
    "conv same lower, strided": (
        "Conv<auto_pad = \"SAME_LOWER\", strides = [2, 2]>(x, w)", 21, array(1, 2, 7, 6), {"w": array(3, 2, 3, 3)}
    ),
    "conv lopsided padding, groups": (
        "Conv<pads = [0, 1, 2, 0], group = 2>(x, w, b)", 21, array(2, 4, 6, 6), {"w": array(4, 2, 3, 3), "b": array(4)}
    ),
    "conv one axis, dilated": (
        "Conv<dilations = [2], pads = [2, 2]>(x, w)", 21, array(1, 2, 9), {"w": array(3, 2, 3)}
    ),
    "conv transpose, cut unevenly": (
        "ConvTranspose<strides = [2, 2], pads = [1, 0, 0, 1], output_padding = [1, 1]>(x, w, b)",
        21, array(1, 2, 4, 4), {"w": array(2, 3, 3, 3), "b": array(3)},
    ),
    "conv transpose to a shape": (
        "ConvTranspose<strides = [2, 2], output_shape = [9, 8], kernel_shape = [3, 3]>(x, w)",
        21, array(1, 2, 4, 4), {"w": array(2, 3, 3, 3)},
    ),
    "average pool, ceil, padding counted": (
        "AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1, "
        "count_include_pad = 1>(x)", 21, array(1, 2, 6, 6), {},
    ),
    "average pool, ceil, padding not counted": (
        "AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1], ceil_mode = 1>(x)",
        21, array(1, 2, 6, 6), {},
    ),
    "max pool, same upper": (
        "MaxPool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = \"SAME_UPPER\">(x)", 21, array(1, 2, 6, 7), {}
    ),
    "max pool, ceil": (
        "MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)", 21, array(1, 2, 6, 6), {}
    ),
    "norm pool": ("LpPool<kernel_shape = [2, 2], p = 2>(x)", 21, array(1, 2, 4, 4), {}),
    "softmax of old opsets takes the rest together": ("Softmax<axis = 1>(x)", 11, array(2, 3, 4), {}),
    "softmax": ("Softmax<axis = 1>(x)", 21, array(2, 3, 4), {}),
    "integer division truncates": ("Div(x, d)", 21, np.int64([-7, 7, -8]), {"d": I64([2, -2, 3])}),
    "modulo takes the sign of the divisor": ("Mod(x, d)", 21, np.int64([-7, 7, -8]), {"d": I64([3, -3, 3])}),
    "float modulo takes the sign of the dividend": (
        "Mod<fmod = 1>(x, d)", 21, np.float32([-7, 7, -8]), {"d": np.float32([3, -3, 3])}
    ),
    "round half to even": ("Round(x)", 21, np.float32([0.5, 1.5, 2.5, -0.5, 1.2]), {}),
    "clip from operands": ("Clip(x, lo, hi)", 21, array(3, 3), {"lo": np.float32(-0.5), "hi": np.float32(0.5)}),
    "clip from attributes": ("Clip<min = -0.5, max = 0.25>(x)", 9, array(3, 3), {}),
    "negative steps": (
        "Slice(x, s, e, a, t)", 21, array(4, 6),
        {"s": I64([-1, 4]), "e": I64([-9, 0]), "a": I64([0, 1]), "t": I64([-1, -2])},
    ),
    "a slice to the end": (
        "Slice(x, s, e)", 21, array(4, 6), {"s": I64([1, -3]), "e": I64([2**63 - 1, 2**63 - 1])}
    ),
    "reflection": ("Pad<mode = \"reflect\">(x, p)", 21, array(3, 4), {"p": I64([1, 2, 2, 3])}),
    "edges": ("Pad<mode = \"edge\">(x, p)", 21, array(3, 4), {"p": I64([1, 0, 0, 2])}),
    "padding of one axis, and cropping": (
        "Pad(x, p, v, a)", 21, array(3, 4), {"p": I64([2, -1]), "v": np.float32(7), "a": I64([-1])}
    ),
    "gather with negative indices": ("Gather<axis = 1>(x, i)", 21, array(3, 4, 2), {"i": I64([[0, -1], [2, -4]])}),
    "gather of tuples in batches": (
        "GatherND<batch_dims = 1>(x, i)", 21, array(2, 3, 4), {"i": I64([[[1], [-1]], [[0], [2]]])}
    ),
    "scattered sums": (
        "ScatterElements<axis = 1, reduction = \"add\">(x, i, u)", 21, array(2, 3),
        {"i": I64([[0, 0], [-1, 1]]), "u": array(2, 2, seed=1)},
    ),
    "scattered tuples": (
        "ScatterND<reduction = \"mul\">(x, i, u)", 21, array(3, 2), {"i": I64([[0], [0]]), "u": array(2, 2, seed=1)}
    ),
    "one hot": (
        "OneHot<axis = 1>(x, d, v)", 21, I64([0, -1, 7]), {"d": I64([3]), "v": np.float32([-1, 2])}
    ),
    "the first of equal maxima": ("TopK(x, k)", 21, np.float32([[1, 3, 3, 0]]), {"k": I64([2])}),
    "the last of equal maxima": ("ArgMax<select_last_index = 1, axis = 1>(x)", 21, np.float32([[1, 3, 3, 0]]), {}),
    "no axes reduce all": ("ReduceMean<keepdims = 0>(x)", 21, array(2, 3), {}),
    "no axes reduce nothing where asked": ("ReduceSum<noop_with_empty_axes = 1>(x)", 21, array(2, 3), {}),
    "axes as an attribute": ("ReduceMax<axes = [-1]>(x)", 11, array(2, 3), {}),
    "exclusive sums from the end": (
        "CumSum<exclusive = 1, reverse = 1>(x, a)", 21, array(2, 4), {"a": np.int32(1)}
    ),
    "linear, half pixel": (
        "Resize<mode = \"linear\">(x, , s)", 21, array(1, 2, 4, 5), {"s": np.float32([1, 1, 2, 1.6])}
    ),
    "linear, aligned corners": (
        "Resize<mode = \"linear\", coordinate_transformation_mode = \"align_corners\">(x, , , n)",
        21, array(1, 2, 4, 5), {"n": I64([1, 2, 7, 3])},
    ),
    "cubic": (
        "Resize<mode = \"cubic\", exclude_outside = 1>(x, , s)",
        21, array(1, 1, 4, 4), {"s": np.float32([1, 1, 1.5, 2])},
    ),
    "nearest, ceiling, asymmetric": (
        "Resize<mode = \"nearest\", nearest_mode = \"ceil\", coordinate_transformation_mode = \"asymmetric\">(x, , s)",
        21, array(1, 1, 4, 4), {"s": np.float32([1, 1, 2.5, 0.5])},
    ),
    "old upsampling": ("Upsample<mode = \"linear\">(x, s)", 9, array(1, 1, 3, 3), {"s": np.float32([1, 1, 2, 2])}),
    "depth to space by columns": ("DepthToSpace<blocksize = 2, mode = \"CRD\">(x)", 21, array(1, 8, 2, 3), {}),
    "group normalization": (
        "GroupNormalization<num_groups = 2>(x, s, b)", 21, array(2, 4, 3), {"s": array(4), "b": array(4, seed=1)}
    ),
    "layer normalization over two axes": (
        "LayerNormalization<axis = 1>(x, s, b)", 21, array(2, 3, 4), {"s": array(3, 4), "b": array(3, 4, seed=1)}
    ),
    "local response": ("LRN<size = 3, alpha = 0.1>(x)", 21, np.abs(array(1, 5, 2, 2)), {}),
    "gemm, all factors": (
        "Gemm<alpha = 0.5, beta = 2.0, transA = 1>(x, w, b)", 21, array(3, 2), {"w": array(3, 4), "b": array(2, 4)}
    ),
    "quantize per row": (
        "QuantizeLinear<axis = 0>(x, s, z)", 21, 3 * array(2, 5),
        {"s": np.float32([0.1, 0.02]), "z": np.int8([3, -7])},
    ),
    "dequantize in blocks": (
        "DequantizeLinear<axis = 1, block_size = 2>(x, s)", 21, np.int8([[1, 2, -3, 4]]), {"s": np.float32([[0.5, 2]])}
    ),
    "multiply codes": (
        "MatMulInteger(x, w, a, b)", 21, np.uint8([[1, 200], [3, 4]]),
        {"w": np.int8([[1, -2], [3, 4]]), "a": np.uint8(7), "b": np.int8(1)},
    ),
    "lstm both ways, with peepholes": (
        "LSTM<hidden_size = 3, direction = \"bidirectional\">(x, w, r, b, , , , p)", 21, array(4, 2, 5),
        {"w": array(2, 12, 5), "r": array(2, 12, 3, seed=1), "b": array(2, 24, seed=2), "p": array(2, 9, seed=3)},
    ),
    "gru backwards, two lengths": (
        "GRU<hidden_size = 3, direction = \"reverse\", linear_before_reset = 1>(x, w, r, b, n)", 21, array(4, 2, 5),
        {"w": array(1, 9, 5), "r": array(1, 9, 3, seed=1), "b": array(1, 18, seed=2), "n": np.int32([4, 2])},
    ),
    "gru of the paper": (
        "GRU<hidden_size = 3>(x, w, r)", 21, array(4, 2, 5), {"w": array(1, 9, 5), "r": array(1, 9, 3, seed=1)}
    ),
    "rnn with relu": (
        "RNN<hidden_size = 3, activations = [\"Relu\"]>(x, w, r, b)", 21, array(4, 2, 5),
        {"w": array(1, 3, 5), "r": array(1, 3, 3, seed=1), "b": array(1, 6, seed=2)},
    ),
    "attention, causal, heads shared": (
        "Attention<is_causal = 1, q_num_heads = 4, kv_num_heads = 2>(x, k, v)", 23, array(2, 3, 16),
        {"k": array(2, 3, 8, seed=1), "v": array(2, 3, 12, seed=2)},
    ),
    "attention with masks": (
        "Attention<scale = 0.25>(x, k, v, m)", 23, array(1, 2, 3, 4),
        {"k": array(1, 2, 5, 4, seed=1), "v": array(1, 2, 5, 4, seed=2), "m": np.arange(15).reshape(3, 5) % 4 > 0},
    ),
    "einsum": ("Einsum<equation = \"bij,jk->bik\">(x, w)", 21, array(2, 3, 4), {"w": array(4, 5)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator_gives_what_onnx_runtime_gives(name: str) -> None:
    expression, opset, x, constants = CASES[name]
    kind = {"f": "float", "i": f"int{8 * x.itemsize}", "u": f"uint{8 * x.itemsize}"}[x.dtype.kind]
    dimensions = ", ".join(map(str, x.shape))
    names = "y, indices" if expression.startswith("TopK") else "y"
    outputs = ", ".join(f"float[] {output}" for output in names.split(", "))
    text = f"net ({kind}[{dimensions}] x) => ({outputs}) {{ {names} = {expression} }}"
    model = graph(text, opset=opset, **constants)
    for output in model.graph.outputs:
        output.shape = output.type = None  # ONNX Runtime infers them
    assert supports(model) == []
    assert_same(model, {"x": x})


_KNOWN = (
    "_e4m3", "_e5m2", "e8m0", "FLOAT8", "FLOAT4", "float4", "INT2", "int2", "INT4", "string",  # types no module holds
    "empty_set",  # torch refuses the maximum of nothing
    "cubic_align_corners", "linear_align_corners",  # ONNX Runtime rounds the length, as we do
)  # fmt: skip


@pytest.mark.slow
def test_node_tests_of_onnx() -> None:
    """All of onnx's own node tests whose operators have a trainable form; a thousand and more must pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflows that the cases provoke on purpose
        from onnx.backend.test.loader import load_model_tests

        cases = [case for case in load_model_tests(kind="node") if not any(word in case.name for word in _KNOWN)]
    passed, failed = 0, {}
    for case in cases:
        try:
            passed += _passes(case)
        except Exception as error:  # noqa: BLE001  # all failures are wanted in one list
            failed[case.name] = " ".join(str(error).split())[:200]
    assert not failed
    assert passed > 1000


def _passes(case: Any) -> bool:
    """False where the case is not for us: operators without a trainable form, sequences, text."""
    try:
        model = ir.from_proto(case.model)
    except (ValueError, TypeError, NotImplementedError):
        return False
    if supports(model):
        return False
    module = GraphModule(model)
    for given, wanted in case.data_sets or []:
        arrays = [onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in (*given, *wanted)]
        if not all(isinstance(x, np.ndarray | np.generic) and x.dtype.kind not in "OUS" for x in arrays):
            return False
        names = [value.name for value in case.model.graph.input]
        feeds = {name: torch_tensor(ir.tensor(x)) for name, x in zip(names, arrays, strict=False)}
        with torch.no_grad():
            outputs = module(feeds)
        for value, expected in zip(case.model.graph.output, arrays[len(given) :], strict=True):
            ours = outputs[value.name].numpy()
            half = expected.dtype.itemsize < 4 and expected.dtype.kind not in "iub"
            rtol, atol = (2e-2, 2e-2) if half else (1e-3, 1e-5)
            np.testing.assert_allclose(ours.astype(float), expected.astype(float), rtol, atol)
    return True
