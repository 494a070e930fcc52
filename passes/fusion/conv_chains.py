# SPDX-License-Identifier: Apache-2.0
"""What one fused convolution takes in: a ShiftConv, its activation function, and an addition beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import onnx_ir as ir

from edgefold.passes._constants import small_constant
from edgefold.passes.fusion.activations import IDENTITY, RELU, Activation, find_activation
from edgefold.passes.fusion.shapes import Shapes, sole_addition


@dataclasses.dataclass(frozen=True)
class CodeFormat:
    """How a tensor is written as integers: ``clip(round_half_even(x / scale), low, high)``."""

    scale: float
    low: int
    high: int

    @property
    def dtype(self) -> ir.DataType:
        return ir.DataType.UINT8 if self.low == 0 else ir.DataType.INT8


@dataclasses.dataclass(frozen=True)
class ConvChain:
    """Nodes that one FusedConvBlock computes.

    Attributes:
        conv: the ShiftConv.
        nodes: all of them, from the ShiftConv on.
        reads: the codes that the convolution makes of its input.
        activation: of the sum of convolution and residual, or of the convolution alone.
        add: the node that adds the residual.
        residual: what is added.
        residual_at: 0: nothing; 1: before the activation; 2: after it.
        relu: the node behind an activation and an addition that only codes from 0 on can do without.
        output: what the last node gives.
    """

    conv: ir.Node
    nodes: tuple[ir.Node, ...]
    reads: CodeFormat
    activation: Activation
    output: ir.Value
    add: ir.Node | None = None
    residual: ir.Value | None = None
    residual_at: int = 0
    relu: ir.Node | None = None

    @property
    def input(self) -> ir.Value:
        value = self.conv.inputs[0]
        assert value is not None
        return value


def code_format(conv: ir.Node) -> CodeFormat | str:
    """The codes that a ShiftConv makes of its input, or why no other node can make them for it."""
    if len(conv.attributes.get_ints("kernel_shape", ())) > 2:
        return "three spatial dimensions"
    high = conv.attributes.get_int("activation_high", 0)
    if high == 0:
        return "float activations"
    if conv.attributes.get_int("x_codes", 0):
        return "its producer quantizes already"
    scale, shifts = small_constant(conv.inputs[6]), small_constant(conv.inputs[7])
    if scale is None or shifts is None or scale.size != 1:
        return "its scale is no constant"
    if shifts.any():
        return "its input channels have steps of their own"
    return CodeFormat(float(scale.reshape(())), conv.attributes.get_int("activation_low", 0), high)


def conv_chain(conv: ir.Node, reads: CodeFormat, shapes: Shapes, apart: Collection[ir.Node]) -> ConvChain:
    """The longest chain behind a ShiftConv.

    Args:
        conv: the ShiftConv.
        reads: its codes.
        shapes: of values by name, as far as they are known.
        apart: additions, and ReLUs behind them, that it must not take in.
    """
    value = conv.outputs[0]
    first = find_activation(value)
    nodes: tuple[ir.Node, ...] = (conv, *first.nodes) if first else (conv,)
    value = first.output if first else value
    activation = first.activation if first else IDENTITY
    add = sole_addition(value, shapes)
    if add is None or add in apart:
        return ConvChain(conv, nodes, reads, activation, value)
    residual = next(operand for operand in add.inputs if operand is not value)
    nodes, value = (*nodes, add), add.outputs[0]
    second = find_activation(value)
    if second is None or (first and (second.activation != RELU or second.nodes[0] in apart)):
        return ConvChain(conv, nodes, reads, activation, value, add, residual, 2 if first else 1)
    nodes = (*nodes, *second.nodes)
    if first:
        return ConvChain(conv, nodes, reads, activation, second.output, add, residual, 2, second.nodes[0])
    return ConvChain(conv, nodes, reads, second.activation, second.output, add, residual, 1)
