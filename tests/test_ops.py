# SPDX-License-Identifier: Apache-2.0
"""The operator functions, run by stock ONNX Runtime, against a plain numpy decode of the same packed tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edgefold.errors import ModelError
from edgefold.ops import DOMAIN, OPERATORS, add_functions, function_protos, operator_documentation
from edgefold.passes.quantization.packing import pack_codes, pack_selectors

Array = npt.NDArray[Any]
OPSETS = (21, 22, 23, 24, 25, 26)


def random_weight(k: int, n: int, bits: int, tables: int, seed: int = 0) -> tuple[Array, dict[str, Array]]:
    """Integer weights [k, n] and the packed tensors that hold them."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**bits, (k, n)).astype(np.uint8)
    selectors = rng.integers(0, tables, (-(-k // 32), n)).astype(np.uint8)
    table = rng.integers(-127, 128, (tables, 2**bits)).astype(np.int8)
    scales = rng.uniform(0.01, 0.02, n).astype(np.float32)
    packed = {
        "codes": pack_codes(codes, bits),
        "selectors": pack_selectors(selectors, tables=tables),
        "table": table,
        "scales": scales,
    }
    return table[np.repeat(selectors, 32, axis=0)[:k], codes].astype(np.float32), packed


def run_one_node(
    op: str, data: dict[str, Array], constants: dict[str, Array], opset: int = 21, **attributes: Any
) -> Array:
    """Runs a model of one node in stock ONNX Runtime, which must inline the function."""
    [(name, value)] = data.items()
    rank = value.ndim + (op == "ShiftGather")
    graph = helper.make_graph(
        [helper.make_node(op, [name, *constants], ["y"], domain=DOMAIN, **attributes)],
        "one_node",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, functions=function_protos(opset, [op]), opset_imports=imports, ir_version=10)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, data)[0])


NO_SHIFTS = np.zeros(1, np.uint8)


def quantize(x: Array, low: int, high: int, x_scale: float, shifts: Array = NO_SHIFTS) -> tuple[Array, Array]:
    """Activation operands and their row scales as the operators define them; shifts broadcast with x."""
    steps = np.float32(2) ** shifts
    if high == 0:
        return x, np.ones((*x.shape[:-1], 1), np.float32)
    if x_scale > 0:
        scale = np.full((1,), x_scale, np.float32)
    else:
        absmax = np.abs(x / steps).max(axis=-1, keepdims=True)
        scale = np.where(absmax > np.float32(1e-30), absmax / np.float32(high), np.float32(0))
    codes = np.clip(np.rint(x / (np.where(scale > 0, scale, np.float32(np.inf)) * steps)), low, high)
    return codes * steps, scale


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("k", "n"), [(1, 1), (3, 5), (32, 16), (37, 33), (100, 47)])
def test_matmul_of_every_width_and_ragged_shape(bits: int, k: int, n: int) -> None:
    tables = min(8, 256 >> bits)
    integers, packed = random_weight(k, n, bits, tables)
    x = np.random.default_rng(1).standard_normal((2, 3, k)).astype(np.float32)
    bias = np.arange(n, dtype=np.float32)
    constants = {**packed, "bias": bias, "x_scale": np.zeros(1, np.float32), "x_shifts": NO_SHIFTS}
    got = run_one_node("ShiftMatMul", {"x": x}, constants, k=k, bits=bits, activation_low=-127, activation_high=127)
    codes, row_scale = quantize(x, -127, 127, 0.0)
    assert np.array_equal(got, (codes @ integers) * (row_scale * packed["scales"]) + bias)


@pytest.mark.parametrize(
    ("low", "high", "x_scale", "largest_shift"),
    [
        (0, 0, 0.0, 0),
        (-127, 127, 0.0, 0),
        (-127, 127, 0.02, 0),
        (0, 255, 0.01, 0),
        (-7, 7, 0.0, 4),
        (-31, 31, 0.02, 2),
        (0, 15, 0.01, 4),
    ],
)
@pytest.mark.parametrize("opset", OPSETS)
def test_matmul_activations(low: int, high: int, x_scale: float, largest_shift: int, opset: int) -> None:
    integers, packed = random_weight(70, 20, 4, 8)
    x = np.random.default_rng(1).standard_normal((5, 70)).astype(np.float32)
    x[2] = 0
    shifts = np.random.default_rng(2).integers(0, largest_shift + 1, 70 if largest_shift else 1).astype(np.uint8)
    constants = {**packed, "bias": np.ones(1, np.float32), "x_scale": np.full(1, x_scale, np.float32)}
    constants["x_shifts"] = shifts
    got = run_one_node(
        "ShiftMatMul", {"x": x}, constants, opset, k=70, bits=4, activation_low=low, activation_high=high
    )
    codes, row_scale = quantize(x, low, high, x_scale, shifts)
    want = (codes @ integers) * (row_scale * packed["scales"]) + np.float32(1)
    # Integer products are exact; float activations differ by the order of 70 additions.
    bound = 0.0 if high else 70 * np.finfo(np.float32).eps * (np.abs(x) @ np.abs(integers) * packed["scales"]).max()
    assert np.abs(got - want).max() <= bound


@pytest.mark.parametrize(("bits", "tables"), [(8, 1), (4, 8), (3, 8), (5, 1)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_gather_wraps_negative_numbers(bits: int, tables: int, dtype: type) -> None:
    integers, packed = random_weight(50, 37, bits, tables)
    ids = np.array([[0, 36, -1], [-37, 15, 16]], dtype)
    got = run_one_node("ShiftGather", {"ids": ids}, packed, k=50, bits=bits)
    assert np.array_equal(got, (integers * packed["scales"]).T[ids])


def test_gather_of_one_number() -> None:
    integers, packed = random_weight(8, 3, 8, 1)
    got = run_one_node("ShiftGather", {"ids": np.array(2, np.int64)}, packed, k=8, bits=8)
    assert np.array_equal(got, (integers * packed["scales"]).T[2])


CONVOLUTIONS = [
    pytest.param(6, 10, 1, (3,), id="1d"),
    pytest.param(6, 10, 1, (3, 2), id="2d"),
    pytest.param(6, 10, 1, (1, 1), id="pointwise"),
    pytest.param(2, 5, 1, (2, 3, 2), id="3d"),
    pytest.param(6, 9, 3, (3, 3), id="grouped"),
    pytest.param(8, 8, 8, (3, 3), id="depthwise"),
    pytest.param(4, 8, 4, (5, 5), id="depthwise with multiplier"),
]


@pytest.mark.parametrize(("channels", "outputs", "group", "kernel"), CONVOLUTIONS)
@pytest.mark.parametrize(("low", "high"), [(0, 0), (-127, 127), (0, 255), (0, 15)])
@pytest.mark.parametrize("bits", [3, 8])
def test_conv(channels: int, outputs: int, group: int, kernel: tuple[int, ...], low: int, high: int, bits: int) -> None:
    rank, depth = len(kernel), channels // group
    k = int(np.prod(kernel)) * depth
    integers, packed = random_weight(k, outputs, bits, 1 if bits == 8 else 8)
    x = np.random.default_rng(1).standard_normal((2, channels, *[7] * rank)).astype(np.float32)
    geometry = {"strides": [2] * rank, "pads": [1] * rank + [0] * rank, "dilations": [1] * rank, "group": group}
    geometry["kernel_shape"] = list(kernel)
    bias = np.linspace(-1, 1, outputs).astype(np.float32)
    shifts = (np.arange(channels) % 5).astype(np.uint8) if high == 15 else NO_SHIFTS
    constants = {**packed, "bias": bias, "x_scale": np.full(1, 0.02, np.float32), "x_shifts": shifts}
    attributes = {"k": k, "bits": bits, "activation_low": low, "activation_high": high, **geometry}
    given = [run_one_node("ShiftConv", {"x": x}, constants, **attributes)]
    if high == 0:
        given.append(run_one_node("FloatConv", {"x": x}, packed | {"bias": bias}, k=k, bits=bits, **geometry))

    weight = integers.T.reshape(outputs, *kernel, depth)
    weight = np.moveaxis(weight, -1, 1).astype(np.float32)
    codes, row_scale = quantize(x, low, high, 0.02, shifts.reshape(-1, *[1] * rank))
    node = helper.make_node("Conv", ["x", "w"], ["y"], **geometry)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "conv", [value("x", 1, x.shape), value("w", 1, weight.shape)], [value("y", 1, [None] * x.ndim)]
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"])
    product = np.asarray(session.run(None, {"x": codes.astype(np.float32), "w": weight})[0])
    across = (1, -1, *[1] * rank)
    scale = row_scale.reshape(-1)[0] * packed["scales"]
    want = product * scale.reshape(across) + bias.reshape(across)
    # ONNX Runtime folds the scales into the weights and adds in another order: k + 2 roundings of k products.
    largest = np.abs(codes).max() * 127 * scale.max()
    bound = (k + 2) * np.finfo(np.float32).eps * k * largest
    assert all(np.abs(got - want).max() <= bound for got in given)


def test_one_bias_serves_all_channels_of_a_float_convolution() -> None:
    _, packed = random_weight(18, 5, 4, 5)
    x = np.random.default_rng(1).standard_normal((1, 2, 6, 6)).astype(np.float32)
    attributes: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
    one, each = (
        run_one_node("FloatConv", {"x": x}, packed | {"bias": bias}, k=18, bits=4, group=1, **attributes)
        for bias in (np.full(1, 0.5, np.float32), np.full(5, 0.5, np.float32))
    )
    assert np.array_equal(one, each)


def test_every_operator_has_a_page() -> None:
    pages = operator_documentation()
    assert list(pages) == [operator.name for operator in OPERATORS]
    assert {"ShiftMatMul", "L1LayerNormalization", "FusedFeedForward"} <= set(pages)
    assert all(page.startswith(f"# {DOMAIN}.{name}\n") for name, page in pages.items())


def test_matmul_of_no_rows() -> None:
    _, packed = random_weight(40, 24, 4, 5)
    packed |= {"bias": np.zeros(1, np.float32), "x_scale": np.zeros(1, np.float32), "x_shifts": NO_SHIFTS}
    attributes = {"k": 40, "bits": 4, "activation_low": -127, "activation_high": 127}
    assert run_one_node("ShiftMatMul", {"x": np.zeros((0, 40), np.float32)}, packed, **attributes).shape == (0, 24)
    assert run_one_node("ShiftMatMul", {"x": np.zeros((2, 0, 40), np.float32)}, packed, **attributes).shape == (
        2,
        0,
        24,
    )


@pytest.mark.parametrize("opset", [20, 27])
def test_bodies_are_refused_outside_the_opsets_they_were_proven_for(opset: int) -> None:
    with pytest.raises(ModelError, match=f"need opset 21 to 26, not {opset}: convert it first"):
        function_protos(opset)


def test_a_model_gets_the_functions_that_its_nodes_need_and_no_others() -> None:
    node = ir.Node(DOMAIN, "ShiftGather", [ir.Value(name=name) for name in "abcde"], num_outputs=1)
    model = ir.Model(ir.Graph([], [], nodes=[node], opset_imports={"": 23}), ir_version=10)
    add_functions(model)
    assert {name for _, name, _ in model.functions} == {"ShiftGather", "ShiftUnpack", "ShiftLevels"}
    assert all(function.opset_imports == {"": 23, DOMAIN: 1} for function in model.functions.values())
    model.graph.remove(node)
    add_functions(model)
    assert not model.functions
    assert DOMAIN not in model.graph.opset_imports
