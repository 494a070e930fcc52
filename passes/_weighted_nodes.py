# SPDX-License-Identifier: Apache-2.0
"""The nodes that apply a constant weight matrix, each seen as W [K, N] whatever way its operator stores it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._constants import Constant, small_constant, trace_constant
from edgefold.passes._conv_geometry import ConvGeometry, conv_geometry
from edgefold.passes._layer_inputs import Inputs, Patches, Rows
from edgefold.passes._subgraphs import nodes_of
from edgefold.passes.base import Skip, SkipReason

Float = npt.NDArray[np.float32]
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_QUANTIZED = (
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "GatherBlockQuantized",
    "MatMulBnb4", "MatMulIntegerToFloat", "MatMulNBits", "QGemm", "QMoE",
)  # fmt: skip
_UNPACKED = ("ConvTranspose", "LSTM", "GRU", "RNN", "Einsum")
_WORTH_NAMING = 1024  # weights; below it a float operand of an unsupported operator is not worth a line in the report


@dataclasses.dataclass(frozen=True)
class WeightedNode:
    """A node that multiplies an activation by a constant matrix, or looks up its columns.

    Attributes:
        node: the MatMul, Gemm, Conv or Gather.
        kind: what it does with the matrix.
        weight: the stored weights.
        stored: how they stand: "kn" is W itself, "nk" its transpose, "conv" [N, C / group, kernel].
        k, n: rows and columns of W.
        operand: position of the activations, or of the row numbers of a Gather, among the node's inputs.
        alpha: factor on the product (Gemm).
        bias: float32 [n] or [1] to add to every row of the product.
        tail: the Add node whose constant became the bias.
        on_left: the weights are the left operand: y = (x' W)'.
        geometry: of a convolution.
    """

    node: ir.Node
    kind: Literal["matmul", "gather", "conv"]
    weight: Constant
    stored: Literal["kn", "nk", "conv"]
    k: int
    n: int
    operand: int
    alpha: float = 1.0
    bias: Float | None = None
    tail: ir.Node | None = None
    on_left: bool = False
    geometry: ConvGeometry | None = None

    @property
    def label(self) -> str:
        """The name under which reports, exclusions and overrides know the node."""
        return node_label(self.node)

    @property
    def data(self) -> ir.Value:
        """What the node reads now; its producer may have been replaced since the node was found."""
        value = self.node.inputs[self.operand]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        """The value that the node, with the bias it takes in, produces."""
        return (self.tail or self.node).outputs[0]

    def matrix(self) -> Float:
        """W, float32 [k, n], contiguous."""
        array = self.weight.array()
        if self.stored == "conv":
            array = np.moveaxis(array, (0, 1), (-1, -2))
        array = array.reshape((self.n, self.k)).T if self.stored == "nk" else array.reshape((self.k, self.n))
        matrix = np.ascontiguousarray(array, dtype=np.float32)
        return matrix if self.alpha == 1.0 else matrix * np.float32(self.alpha)

    def with_bias_added(self, correction: Float | None) -> WeightedNode:
        """The same node with something added to its bias."""
        if correction is None:
            return self
        bias = correction if self.bias is None else self.bias + correction
        return dataclasses.replace(self, bias=bias)


def node_label(node: ir.Node) -> str:
    """The node's name, or that of its first output where the exporter gave it none."""
    return str(node.name or node.outputs[0].name)


def weighted_node(node: ir.Node) -> WeightedNode | Skip | None:
    """What the node does with constant weights; a Skip where that cannot be packed, None where it has none."""
    if node.domain == "ai.edgefold":
        return _refuse(node, SkipReason.ALREADY_QUANTIZED)
    if node.op_type in _QUANTIZED and any(trace_constant(value) for value in node.inputs[1:]):
        return _refuse(node, SkipReason.ALREADY_QUANTIZED)
    if node.domain not in ("", "ai.onnx"):
        return _foreign(node)
    recognize = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv, "Gather": _gather}.get(node.op_type)
    if recognize is not None:
        return recognize(node)
    return _foreign(node) if node.op_type in _UNPACKED else None


def weighted_nodes(model: ir.Model) -> Iterator[WeightedNode | Skip]:
    """What each node of the main graph and of bodies does with constant weights, as `weighted_node` says.

    Functions, and bodies that are an operator's own affair, are not entered: a Skip for every matrix product in them.
    """
    entered = list(nodes_of(model.graph))
    yield from (found for node in entered if (found := weighted_node(node)) is not None)
    inside = set(entered)
    others = [node for node in model.graph.all_nodes() if node not in inside]
    others += [node for one in model.functions.values() if one.domain != "ai.edgefold" for node in one.all_nodes()]
    yield from (_refuse(node, SkipReason.SUBGRAPH) for node in others if node.op_type in ("MatMul", "Gemm", "Conv"))


def layer_inputs(site: WeightedNode) -> Inputs | None:
    """What the node's weights are multiplied with, as calibration names it; None for a lookup."""
    tensor = str(site.data.name)
    if site.kind == "gather":
        return None
    if site.geometry is None:
        return Rows(tensor, axis=-2 if site.on_left else -1)
    geometry = site.geometry
    return Patches(tensor, geometry.kernel, geometry.strides, geometry.pads, geometry.dilations, geometry.group)


def _foreign(node: ir.Node) -> Skip | None:
    """A Skip for an operator without packed form that holds weights worth mentioning."""
    constants = [trace_constant(value) for value in node.inputs]
    size = max((math.prod(c.shape) for c in constants if c is not None), default=0)
    if size < _WORTH_NAMING:
        return None
    name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return Skip(node_label(node), SkipReason.TARGET_LACKS_OP, f"no packed form of {name}")


def _refuse(node: ir.Node, reason: SkipReason, detail: str = "") -> Skip:
    return Skip(node_label(node), reason, detail)


def _missing(node: ir.Node, value: ir.Value | None) -> Skip:
    """The Skip for a weight operand that is no constant."""
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type == "DequantizeLinear":
        return _refuse(node, SkipReason.ALREADY_QUANTIZED)
    return _refuse(node, SkipReason.NOT_CONSTANT)


def _unusable(node: ir.Node, weight: Constant) -> Skip | None:
    if weight.dtype not in _FLOATS or ir.DataType(weight.tensor.dtype) not in _FLOATS:
        return _refuse(node, SkipReason.DTYPE, str(ir.DataType(weight.tensor.dtype)))
    if 0 in weight.shape:
        return _refuse(node, SkipReason.RANK, "no elements")
    return None


def _matmul(node: ir.Node) -> WeightedNode | Skip:
    left, right = node.inputs
    weight, on_left = trace_constant(right), False
    if weight is None:
        weight, on_left = trace_constant(left), True
    data = right if on_left else left
    if weight is None or data is None:
        return _missing(node, right)
    if refusal := _unusable(node, weight):
        return refusal
    rank = None if data.shape is None else data.shape.rank()
    if len(weight.shape) < 2 or math.prod(weight.shape[:-2]) != 1:
        return _refuse(node, SkipReason.RANK, f"weight of shape {list(weight.shape)}")
    if len(weight.shape) > 2 and (rank is None or rank < len(weight.shape)):
        return _refuse(node, SkipReason.RANK, "the weight has more dimensions than the activation")
    if on_left:
        if rank is None or rank < 2:
            return _refuse(node, SkipReason.DYNAMIC_SHAPE, "constant on the left of an activation of unknown rank")
        n, k = weight.shape[-2:]
        return WeightedNode(node, "matmul", weight, "nk", k, n, 1, on_left=True)
    k, n = weight.shape[-2:]
    tail, bias = _bias_add(node, n)
    return WeightedNode(node, "matmul", weight, "kn", k, n, 0, bias=bias, tail=tail)


def _bias_add(node: ir.Node, n: int) -> tuple[ir.Node | None, Float | None]:
    """The Add of a constant row that alone reads the product, and that row."""
    product = node.outputs[0]
    uses = list(product.uses())
    if len(uses) != 1 or product.is_graph_output() or uses[0].node.op_type != "Add" or uses[0].node.domain != "":
        return None, None
    tail = uses[0].node
    if tail.graph is not node.graph:
        return None, None
    constant = trace_constant(tail.inputs[1 - uses[0].idx])
    if constant is None or not constant.dtype.is_floating_point():
        return None, None
    row = _row(constant.array(), n)
    rank = None if product.shape is None else product.shape.rank()
    if row is None or len(constant.shape) > (1 if rank is None else rank) or not np.isfinite(row).all():
        return None, None
    return tail, row


def _row(array: npt.NDArray[np.floating] | None, n: int) -> Float | None:
    """An addend that is the same for every row, as [n] or [1]; None where it differs between rows."""
    if array is None or array.size not in (1, n) or (array.size == n and n > 1 and array.shape[-1] != n):
        return None
    return np.array(array, dtype=np.float32).reshape(-1)


def _gemm(node: ir.Node) -> WeightedNode | Skip:
    data, weight = node.inputs[0], trace_constant(node.inputs[1])
    if weight is None or data is None:
        return _missing(node, node.inputs[1])
    if refusal := _unusable(node, weight):
        return refusal
    if node.attributes.get_int("transA", 0):
        return _refuse(node, SkipReason.ATTRIBUTE, "transA")
    transposed = bool(node.attributes.get_int("transB", 0))
    k, n = weight.shape[::-1] if transposed else weight.shape
    bias: Float | None = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _row(small_constant(node.inputs[2]), n)
        if bias is None:
            return _refuse(node, SkipReason.ATTRIBUTE, "C is not a constant row")
        bias = bias * np.float32(node.attributes.get_float("beta", 1.0))
    alpha = node.attributes.get_float("alpha", 1.0)
    stored: Literal["kn", "nk"] = "nk" if transposed else "kn"
    return WeightedNode(node, "matmul", weight, stored, k, n, 0, alpha=alpha, bias=bias)


def _gather(node: ir.Node) -> WeightedNode | Skip | None:
    data, table = node.inputs[1], trace_constant(node.inputs[0])
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    if producer is not None and producer.op_type == "DequantizeLinear":
        return _refuse(node, SkipReason.ALREADY_QUANTIZED)
    if table is None or data is None or not table.dtype.is_floating_point():
        return None  # a lookup in shapes or activations has no weights
    if refusal := _unusable(node, table):
        return refusal
    if len(table.shape) != 2:
        return _refuse(node, SkipReason.RANK, f"table of shape {list(table.shape)}")
    if node.attributes.get_int("axis", 0) not in (0, -2):
        return _refuse(node, SkipReason.ATTRIBUTE, "axis is not 0")
    n, k = table.shape
    return WeightedNode(node, "gather", table, "nk", k, n, 1)


def _conv(node: ir.Node) -> WeightedNode | Skip:
    data, weight = node.inputs[0], trace_constant(node.inputs[1])
    if weight is None or data is None:
        return _missing(node, node.inputs[1])
    if refusal := _unusable(node, weight):
        return refusal
    if not 3 <= len(weight.shape) <= 5:
        return _refuse(node, SkipReason.RANK, f"{len(weight.shape) - 2} spatial dimensions")
    geometry = conv_geometry(node, weight.shape)
    if geometry is None:
        return _refuse(node, SkipReason.DYNAMIC_SHAPE, "auto_pad needs the input's size")
    n, k = weight.shape[0], math.prod(weight.shape[1:])
    bias: Float | None = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _row(small_constant(node.inputs[2]), n)
        if bias is None:
            return _refuse(node, SkipReason.NOT_CONSTANT, "bias")
    return WeightedNode(node, "conv", weight, "conv", k, n, 0, bias=bias, geometry=geometry)
