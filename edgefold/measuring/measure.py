# SPDX-License-Identifier: Apache-2.0
"""What a model costs before it runs: bytes, weights, bits a weight, multiply-accumulates; and this process's memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx import TensorProto

from edgefold.errors import ModelError
from edgefold.files.external import weight_bytes, weight_values
from edgefold.measuring.macs import node_macs, total_macs
from edgefold.measuring.packed_weights import packed_weights
from edgefold.measuring.unfused import unfused

# Types of weights; indices, shapes and masks are of the others.
_WEIGHT_TYPES = frozenset(
    type_
    for type_ in ir.DataType
    if type_ not in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.STRING, ir.DataType.UNDEFINED,
                     ir.DataType.UINT64, ir.DataType.UINT32, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128)
)  # fmt: skip
# Operator -> position of the weight; in any other operator a constant is no weight matrix.
_SECOND = "MatMul Gemm Conv ConvTranspose MatMulInteger ConvInteger DynamicQuantizeMatMul FusedMatMul"
_FOURTH = "QLinearConv QLinearMatMul QGemm"
_WEIGHT_INPUT = {**dict.fromkeys(_SECOND.split(), 1), **dict.fromkeys(_FOURTH.split(), 3)}
_VIEWS = frozenset(("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "DequantizeLinear"))
# Operators and the inputs that hold scales and zero points, which describe weights and are none themselves.
_PARAMETERS = {
    "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "QLinearConv": (1, 2, 4, 5, 6, 7), "ConvInteger": (2, 3),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7), "MatMulInteger": (2, 3), "MatMulNBits": (2, 3, 4), "QGemm": (1, 2, 4, 5, 7, 8),
    "ShiftMatMul": (1, 2, 3, 4, 6, 7), "ShiftGather": (1, 2, 3, 4), "ShiftConv": (1, 2, 3, 4, 6, 7),
    "FloatConv": (1, 2, 3, 4),
    "ShiftMoE": (2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15), "QMoE": (2, 3, 5, 6),
}  # fmt: skip
_Stored = tuple[int, int, int]
"""Of a stored matrix: what identifies it, its elements, its bits."""


@dataclass(frozen=True)
class StoredMatrix:
    """The weight of one or several nodes, as it is stored.

    Attributes:
        nodes: names of the MatMul, Gemm and Conv nodes (of any kind) that multiply by it.
        weights: elements of the matrix that is stored, padding not counted.
        bits: everything stored for it: codes with padding, selectors, tables, scales, zero points.
    """

    nodes: tuple[str, ...]
    weights: int
    bits: int


def model_size(model: ir.Model) -> int:
    """Bytes of the model when written: the graph and all its tensors; none of them is read."""
    copy = model.clone()
    total = weight_bytes(copy)
    for graph in copy.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _without_data(value.const_value, value.name or "")
    return total + int(ir.to_proto(copy).ByteSize())


def _without_data(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    header = TensorProto(name=name, data_type=tensor.dtype.value, dims=tensor.shape.numpy())
    return ir.serde.TensorProtoTensor(header)


def model_weights(model: ir.Model) -> int:
    """Weight elements of a model: constants of weight types, and for packed operators the elements they stand for.

    A tensor that several nodes read counts once. Shapes, indices, scales and zero points do not count.
    """
    parameters, packed = _packed_inputs(model)
    stored = {
        id(tensor): math.prod(tensor.shape.numpy())
        for name, tensor in _constants(model)
        if tensor.dtype in _WEIGHT_TYPES and name not in parameters
    }
    return sum(stored.values()) + sum(packed.values())


def bits_per_weight(model: ir.Model) -> float | None:
    """Average bits of the MatMul, Gemm and Conv weights, all that is stored for them counted; None without any."""
    matrices = stored_matrices(model)
    weights = sum(matrix.weights for matrix in matrices)
    return sum(matrix.bits for matrix in matrices) / weights if weights else None


def stored_matrices(model: ir.Model) -> list[StoredMatrix]:
    """Every weight matrix that a MatMul, Gemm or Conv multiplies by, once, with the nodes that share it."""
    found: dict[int, StoredMatrix] = {}
    for node in _all_nodes(model):
        name = node.name or node.outputs[0].name or ""
        for key, weights, bits in _packed(node) or _plain(node):
            known = found.get(key)
            found[key] = StoredMatrix((name,), weights, bits) if known is None else _shared(known, name)
    return list(found.values())


def model_macs(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Multiply-accumulates of one run at the given input shapes; None where a shape stays unknown.

    Counts convolutions, matrix products (of two activations too) and recurrent layers; elementwise work is left out.
    """
    try:
        return total_macs(node_macs(model, shapes))
    except ModelError:
        return (
            None  # a graph whose shapes contradict each other may still run; the caller shows that its work is unknown
        )


def peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes (since `reset_peak_rss`, if that was called)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ModelError("/proc/self/status: has no VmHWM; memory can be measured on Linux only")


def reset_peak_rss() -> None:
    """Starts the peak anew at the present resident memory (Linux: clear_refs 5, see proc(5))."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    model = unfused(model)
    yield from model.graph.all_nodes()
    for (domain, _, _), function in model.functions.items():
        if domain != "ai.edgefold":
            yield from function.graph.all_nodes()


def _constants(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for value in weight_values(model):
        assert value.const_value is not None
        yield value.name or "", value.const_value
    for node in _all_nodes(model):
        if node.op_type == "Constant" and "value" in node.attributes:
            yield node.outputs[0].name or "", node.attributes["value"].as_tensor()


def _packed_inputs(model: ir.Model) -> tuple[set[str], dict[int, int]]:
    """Names of the values that describe weights, and per packed matrix (by its codes) the elements it stands for."""
    parameters: set[str] = set()
    packed: dict[int, int] = {}
    for node in _all_nodes(model):
        inputs = node.inputs
        if node.op_type == "MatMulNBits":
            parameters.add(_name(inputs[1]))
        for index in _PARAMETERS.get(node.op_type, ()):
            if index < len(inputs) and inputs[index] is not None:
                parameters.add(_name(inputs[index]))
        for matrix in packed_weights(node):
            packed[_identity(matrix.inputs[0])] = matrix.k * matrix.n
    return parameters, packed


def _packed(node: ir.Node) -> list[_Stored]:
    """Key, elements and bits of the matrices of a packed operator other than an embedding."""
    if node.op_type == "ShiftGather":
        return []
    found = packed_weights(node)
    return [(_identity(one.inputs[0]), one.k * one.n, 8 * sum(map(_bytes, one.inputs))) for one in found]


def _plain(node: ir.Node) -> list[_Stored]:
    index = _WEIGHT_INPUT.get(node.op_type)
    if index is None or index >= len(node.inputs):
        return []
    found = _trace(node.inputs[index])
    if found is None and node.op_type == "MatMul":
        found = _trace(node.inputs[0])
    if found is None:
        return []
    root, extra = found
    tensor = ir.convenience.get_const_tensor(root)
    assert tensor is not None
    return [(_identity(root), math.prod(tensor.shape.numpy()), 8 * (int(tensor.nbytes) + extra))]


def _trace(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """The stored tensor behind a weight, seen through views and dequantization, and the latter's bytes."""
    extra = 0
    while value is not None:
        if ir.convenience.get_const_tensor(value) is not None:
            return value, extra
        node = value.producer()
        if node is None or node.op_type not in _VIEWS:
            return None
        if node.op_type == "DequantizeLinear":
            extra += sum(_bytes(part) for part in node.inputs[1:])
        value = node.inputs[0]
    return None


def _shared(matrix: StoredMatrix, node: str) -> StoredMatrix:
    return StoredMatrix((*matrix.nodes, node), matrix.weights, matrix.bits)


def _bytes(value: ir.Value | None) -> int:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return 0 if tensor is None else int(tensor.nbytes)


def _identity(value: ir.Value | None) -> int:
    """One number for a stored tensor, whichever value shows it."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return id(value) if tensor is None else id(tensor)


def _name(value: ir.Value | None) -> str:
    return "" if value is None else value.name or ""
