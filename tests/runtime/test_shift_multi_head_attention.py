# SPDX-License-Identifier: Apache-2.0
"""ShiftMultiHeadAttention: ShiftAttention with its heads side by side, in the kernel and in the function."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import test_shift_attention as split_heads
from onnx import TensorProto, helper

from edgefold.errors import EdgefoldError
from edgefold.ops import function_protos
from edgefold.runtime import ops_library

NO_MASK = split_heads.NO_MASK


def model(arrays: list[np.ndarray], heads: int, kv_heads: int, *, functions: bool, causal: int = 0) -> bytes:
    names = ["q", "k", "v", "mask"]
    attributes = {"num_heads": heads, "kv_num_heads": kv_heads, "scale": 0.25, "causal": causal}
    node = helper.make_node("ShiftMultiHeadAttention", names, ["y"], domain="ai.edgefold", **attributes)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * array.ndim)
        for name, array in zip(names, arrays, strict=True)
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.edgefold", 1)]
    bodies = function_protos(21, ["ShiftMultiHeadAttention"]) if functions else []
    graph = helper.make_graph([node], "one", inputs, outputs)
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, functions=bodies, ir_version=10)
    return bytes(made.SerializeToString())


def run(
    q: Any, k: Any, v: Any, heads: int, kv_heads: int, mask: Any = NO_MASK, *, stock: bool = False, causal: int = 0
) -> Any:
    arrays = [np.asarray(array, np.float32) for array in (q, k, v, mask)]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not stock:
        try:
            options.register_custom_ops_library(str(ops_library()))
        except EdgefoldError as missing:
            pytest.skip(str(missing))
    proto = model(arrays, heads, kv_heads, functions=stock, causal=causal)
    session = ort.InferenceSession(proto, options)
    return session.run(None, dict(zip(("q", "k", "v", "mask"), arrays, strict=True)))[0]


def side_by_side(x: np.ndarray) -> np.ndarray:
    batch, heads, rows, columns = x.shape
    return x.swapaxes(1, 2).reshape(batch, rows, heads * columns)


def case(shape: tuple[int, ...]) -> list[np.ndarray]:
    batch, heads, kv_heads, rows, keys, depth, values = shape
    rng = np.random.default_rng(rows + keys)
    sizes = [(batch, heads, rows, depth), (batch, kv_heads, keys, depth), (batch, kv_heads, keys, values)]
    return [rng.standard_normal(size).astype(np.float32) for size in sizes]


# Batch, heads of queries and of keys, rows, keys, depth, size of a value: a few lines, blocks, and blocks across heads.
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 3, 7, 7, 5, 9),
    (2, 4, 2, 3, 9, 8, 6),
    (1, 12, 12, 33, 33, 32, 32),
    (2, 4, 1, 20, 40, 16, 20),
]


@pytest.mark.parametrize("stock", [False, True], ids=["kernel", "function"])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_operator_on_heads_that_are_split(shape: tuple[int, ...], causal: int, stock: bool) -> None:
    q, k, v = case(shape)
    rng = np.random.default_rng(0)
    for mask_shape in [(1, 1, 1, 1), (shape[0], 1, 1, shape[4]), (1, shape[1], shape[3], shape[4])]:
        mask = np.where(rng.random(mask_shape) < 0.2, -1e4, 0).astype(np.float32)
        expected = side_by_side(split_heads.run(q, k, v, mask, stock=stock, causal=causal))
        joined = [side_by_side(x) for x in (q, k, v)]
        y = run(*joined, shape[1], shape[2], mask, stock=stock, causal=causal)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("stock", [False, True], ids=["kernel", "function"])
def test_nothing_may_be_empty_but_a_head(stock: bool) -> None:
    q, k, v = (side_by_side(x) for x in case((2, 3, 3, 4, 5, 8, 8)))
    assert run(q[:, :0], k, v, 3, 3, stock=stock).shape == (2, 0, 24)
    assert run(q[:0], k[:0], v[:0], 3, 3, stock=stock).shape == (0, 4, 24)


def test_the_output_shape_is_known_before_a_run() -> None:
    arrays = [*(side_by_side(x) for x in case((2, 4, 2, 3, 9, 8, 6))), NO_MASK]
    proto = onnx.load_from_string(model(arrays, 4, 2, functions=False))
    for value, array in zip(proto.graph.input, arrays, strict=True):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, array.shape))
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(ops_library()))
    [output] = ort.InferenceSession(proto.SerializeToString(), options).get_outputs()
    assert output.shape == [2, 3, 24]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (1, 8, 9)}, r"q, k and v have shapes \[1,8,9\].*expected \[B, rows, 4 \* depth\]"),
        ({"k": (1, 8, 6)}, "num_heads a multiple of kv_num_heads"),
        ({"v": (1, 7, 8)}, "q, k and v have shapes"),
        ({"q": (1, 4, 8, 4)}, "q, k and v have shapes"),
        ({"mask": (1, 2, 1, 8)}, r"mask has shape \[1,2,1,8\]; it must broadcast to \[1,4,8,8\]"),
    ],
)
def test_wrong_shapes_are_refused(change: dict[str, tuple[int, ...]], message: str) -> None:
    shapes = {"q": (1, 8, 16), "k": (1, 8, 8), "v": (1, 8, 8), "mask": (1, 1, 1, 1)} | change
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(Exception, match=message):
        run(arrays["q"], arrays["k"], arrays["v"], 4, 2, arrays["mask"])


@pytest.mark.parametrize(("heads", "kv_heads"), [(0, 1), (1, 0), (70000, 1)])
def test_numbers_of_heads_are_checked(heads: int, kv_heads: int) -> None:
    x = np.ones((1, 4, 8), np.float32)
    with pytest.raises(Exception, match="num_heads' is"):
        run(x, x, x, heads, kv_heads)
