# SPDX-License-Identifier: Apache-2.0
"""A node as its operator sees it when it is bound: attributes, version, and the operands that are constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

Kernel = Callable[..., Any]
"""Computes a bound node: its operands in order (None for one left out) to a tensor, or a tuple for several outputs."""

Binding = Callable[["BoundNode"], Kernel]
"""Resolves once all that a node fixes, and returns what is left to compute at each call.

Raises UnsupportedNodeError for a form of the operator that has no trainable counterpart.
"""


Body = Callable[[Sequence[Any], Sequence[Any], Any], tuple[Any, ...]]
"""A subgraph: from its inputs, the values around it that it may read, and the device, to its outputs."""


class UnsupportedNodeError(Exception):
    """Why a node cannot become part of a trainable module; the node's name is added by the caller."""


@dataclass(frozen=True, eq=False)
class BoundNode:
    """What binding an operator needs of its node.

    Attributes:
        node: the node of the graph.
        version: opset version of the operator's domain.
        constants: operand position -> tensor, for operands that no feed and no weight can change.
        bodies: attribute name -> subgraph. A kernel with bodies is called with what lies around them, and the device,
            after its operands.
        gradient_bits: of the codes that gradients are rounded to in a quantized layer's backward products; None leaves
            them float.
    """

    node: ir.Node
    version: int
    constants: Mapping[int, Tensor]
    bodies: Mapping[str, Body]
    gradient_bits: int | None = None

    def constant(self, position: int) -> Tensor | None:
        """The operand at a position where it is constant, else None."""
        return self.constants.get(position)

    def has(self, position: int) -> bool:
        """Whether the operand at a position is given at all."""
        return position < len(self.node.inputs) and self.node.inputs[position] is not None

    def reads_output(self, position: int) -> bool:
        """Whether the node's output at a position has a name, that is, whether anything may read it."""
        return position < len(self.node.outputs) and bool(self.node.outputs[position].name)

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.node.attributes[name].as_int()) if name in self.node.attributes else default

    def real(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.node.attributes[name].as_float()) if name in self.node.attributes else default

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        return str(self.node.attributes[name].as_string()) if name in self.node.attributes else default

    def integers(self, name: str) -> list[int] | None:
        """An attribute that is a list of integers; None where it is not set."""
        return list(self.node.attributes[name].as_ints()) if name in self.node.attributes else None


def numbers(node: BoundNode, position: int, attribute: str | None = None) -> Callable[[Sequence[Any]], Any]:
    """How a kernel reads an operand that holds shapes, axes or bounds as Python numbers.

    Args:
        node: the node.
        position: of the operand. A constant one is read once, when the node is bound.
        attribute: its name in older opsets, where it was an attribute.

    Returns:
        From a kernel's operands to a flat list, or None where neither operand nor attribute is given.
    """
    fixed: list[Any] | None = None
    if attribute is not None and attribute in node.node.attributes:
        fixed = list(node.node.attributes[attribute].value)
    elif (constant := node.constant(position)) is not None:
        fixed = constant.reshape(-1).tolist()
    elif node.has(position):
        return lambda operands: operands[position].reshape(-1).tolist()
    return lambda _: fixed


_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float32,
    ir.DataType.BFLOAT16: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.INT4: torch.int8,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT4: torch.uint8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.int32,
    ir.DataType.UINT32: torch.int64,
    ir.DataType.UINT64: torch.int64,
    ir.DataType.BOOL: torch.bool,
}


def torch_dtype(dtype: ir.DataType | int) -> torch.dtype:
    """The type that a module computes in for a tensor of an ONNX type.

    Half precision becomes float32: small updates would be lost in it. Unsigned types that torch barely supports, and
    4-bit ones, become the next wider type it does.

    Raises:
        UnsupportedNodeError: strings, complex numbers, float8.
    """
    try:
        return _DTYPES[ir.DataType(dtype)]
    except KeyError:
        raise UnsupportedNodeError(f"works on {ir.DataType(dtype).name}, which cannot be trained") from None


def torch_tensor(tensor: ir.TensorProtocol) -> Tensor:
    """A copy of a stored tensor, of the type that a module computes in.

    Raises:
        UnsupportedNodeError: see `torch_dtype`.
    """
    dtype = torch_dtype(tensor.dtype)
    array = tensor.numpy()
    wanted = torch.empty(0, dtype=dtype).numpy().dtype
    # ml_dtypes' types (bfloat16, int4) and wide unsigned ones are unknown to torch.from_numpy.
    return torch.from_numpy(array.astype(wanted, order="C", copy=True))


def held_by_constant(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node; None for text and sparse tensors.

    `ir.convenience.get_const_tensor` would write a name into the tensor, and with it other bytes into the file.
    """
    for name, attribute in node.attributes.items():
        if name == "value":
            return attribute.as_tensor()
        if name in ("value_float", "value_floats"):
            return ir.tensor(np.array(attribute.value, np.float32))
        if name in ("value_int", "value_ints"):
            return ir.tensor(np.array(attribute.value, np.int64))
    return None
