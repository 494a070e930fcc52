# SPDX-License-Identifier: Apache-2.0
"""Puts ``ai.edgefold`` nodes and their packed weights in the place of the nodes they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes._constants import remove_if_unread, trace_constant
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import Float, WeightedNode
from edgefold.passes.quantization.codes import QuantizedMatrix
from edgefold.passes.quantization.narrow_widths import ONE_WIDTH, NarrowWidths
from edgefold.passes.quantization.packing import LAYOUT_VERSION, pack_codes, pack_selectors

DOMAIN = "ai.edgefold"


@dataclasses.dataclass(frozen=True)
class Activation:
    """How the activations of one node become integers: codes in [low, high]; high 0 leaves them float.

    Channel k has the step ``scale * 2**shifts[k]``, and its codes enter the integer product shifted left by
    ``shifts[k]``, which must keep them within 8 bits.

    Attributes:
        low, high: the range of codes; low 0 for unsigned ones.
        scale: the finest step; 0 where it is found anew for every row at run time.
        shifts: one for every k of a MatMul or input channel of a Conv, one for all of them, or none.
    """

    low: int = 0
    high: int = 0
    scale: float = 0.0
    shifts: tuple[int, ...] = ()

    @property
    def largest_shift(self) -> int:
        return max(self.shifts, default=0)

    @property
    def described(self) -> str:
        """Narrow codes in words, to be appended; nothing for 8 bits and float."""
        bits = (self.high - self.low).bit_length()
        if bits in (0, 8):
            return ""
        groups = len(set(self.shifts))
        return f"; activations {bits} bits" + (f" in {groups} groups" if groups > 1 else "")


FLOAT_ACTIVATION = Activation()

# The largest sum of a layer, 255 * 127 * MAX_DEPTH, fits int32.
MAX_DEPTH = 65536


def store_matrix(store: InitializerStore, name: str, matrix: QuantizedMatrix) -> list[ir.Value]:
    """Packs a matrix and keeps its codes, selectors, table and scales."""
    tables = len(matrix.table)
    return [
        store.add(f"{name}.codes", pack_codes(matrix.codes, matrix.bits)),
        store.add(
            f"{name}.selectors" if tables > 1 else "edgefold.one_table", pack_selectors(matrix.selectors, tables=tables)
        ),
        store.add(f"{name}.table", matrix.table),
        store.add(f"{name}.scales", matrix.scales),
    ]


def replace_node(
    store: InitializerStore,
    site: WeightedNode,
    weights: Sequence[ir.Value],
    bits: int,
    activation: Activation,
    narrow: NarrowWidths = ONE_WIDTH,
) -> None:
    """Replaces a weighted node (and the bias Add it took in) by its packed form, in its graph; tensor names stay."""
    graph = site.node.graph
    assert graph is not None
    builder = _NodeBuilder(site)
    source = site.data
    if site.kind == "gather":
        result = builder.node("ShiftGather", [source, *weights], k=site.k, bits=bits)
    else:
        _check_bounds(site, activation)
        source = builder.cast(source, ir.DataType.FLOAT)
        source = builder.swap_last_two(source)
        operands = [source, *weights, _stored(store, f"{site.output.name}.bias", site.bias)]
        if site.kind == "conv" and activation.high == 0 and not narrow.bits:
            result = builder.node("FloatConv", operands, k=site.k, bits=bits, **_geometry_attributes(site))
        else:
            scale = _stored(store, f"{site.output.name}.x_scale", np.array([activation.scale], np.float32))
            result = builder.node(
                "ShiftConv" if site.kind == "conv" else "ShiftMatMul",
                [*operands, scale, _shifts(store, site, activation)],
                k=site.k,
                bits=bits,
                activation_low=activation.low,
                activation_high=activation.high,
                **_geometry_attributes(site),
                **narrow.attributes(),
            )
        result = builder.swap_last_two(result)
    result = builder.cast(result, site.weight.dtype)
    old_nodes = [site.node] if site.tail is None else [site.tail, site.node]
    constants = [trace_constant(value) for node in old_nodes for value in node.inputs if value is not None]
    ir.convenience.replace_nodes_and_values(
        graph, site.tail or site.node, old_nodes, builder.nodes, [site.output], [result]
    )
    for constant in constants:
        if constant is not None and constant.root != site.weight.root:
            remove_if_unread(constant)


def _check_bounds(site: WeightedNode, activation: Activation) -> None:
    """Refuses, by the layer's name, operands that leave their byte and sums that may leave int32."""
    if activation.high == 0:
        return
    operand = 255 if activation.low == 0 else 127
    reach = max(activation.high, -activation.low) << activation.largest_shift
    if reach > operand:
        raise ModelError(
            f"{site.label}: activation codes reach {reach} after their channel shifts; expected at most {operand}: "
            "take fewer groups or fewer bits"
        )
    if site.k > MAX_DEPTH:
        raise ModelError(
            f"{site.label}: sums of {site.k} products may leave int32; expected at most {MAX_DEPTH}: give this layer "
            "float activations by an override, or exclude it"
        )


def _shifts(store: InitializerStore, site: WeightedNode, activation: Activation) -> ir.Value:
    """Keeps the channel shifts; one zero serves all nodes without."""
    if activation.largest_shift == 0:
        return store.add("edgefold.zero_shift", np.zeros(1, np.uint8))
    return store.add(f"{site.output.name}.x_shifts", np.array(activation.shifts, np.uint8))


def _stored(store: InitializerStore, name: str, array: Float | None) -> ir.Value:
    """Keeps an operand; one zero serves all nodes without bias or static scale."""
    if array is None or (array.size == 1 and not array.any()):
        return store.add("edgefold.zero", np.zeros(1, np.float32))
    return store.add(name, array)


def _geometry_attributes(site: WeightedNode) -> dict[str, Any]:
    geometry = site.geometry
    if geometry is None:
        return {}
    return {
        "kernel_shape": geometry.kernel,
        "strides": geometry.strides,
        "pads": geometry.pads,
        "dilations": geometry.dilations,
        "group": geometry.group,
    }


class _NodeBuilder:
    """Collects the nodes that replace one weighted node, with their provenance."""

    def __init__(self, site: WeightedNode) -> None:
        self._site = site
        old = [site.node] if site.tail is None else [site.node, site.tail]
        self._provenance = {
            "edgefold.pass": "quantize",
            "edgefold.from": ",".join(str(node.name or node.outputs[0].name) for node in old),
        }
        self.nodes: list[ir.Node] = []

    def node(self, op_type: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        attributes["layout"] = LAYOUT_VERSION
        return self._append(DOMAIN, op_type, inputs, self._site.label, ir.DataType.FLOAT, attributes)

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value as another float type; itself where the layer is float32 already."""
        if self._site.weight.dtype == ir.DataType.FLOAT:
            return value
        name = f"{self._site.label}/to_{dtype.name.lower()}"
        return self._append("", "Cast", [value], name, dtype, {"to": int(dtype)})

    def swap_last_two(self, value: ir.Value) -> ir.Value:
        """The value with its last two dimensions exchanged, where the weights are the left operand."""
        if not self._site.on_left:
            return value
        assert self._site.data.shape is not None
        rank = self._site.data.shape.rank()
        order = [*range(rank - 2), rank - 1, rank - 2]
        name = f"{self._site.label}/transpose_{len(self.nodes)}"
        return self._append("", "Transpose", [value], name, ir.DataType.FLOAT, {"perm": order})

    def _append(
        self,
        domain: str,
        op_type: str,
        inputs: Sequence[ir.Value],
        name: str,
        dtype: ir.DataType,
        attributes: dict[str, Any],
    ) -> ir.Value:
        output = ir.Value(name=f"{name}_output", type=ir.TensorType(dtype))
        node = ir.Node(
            domain, op_type, inputs, ir.convenience.convert_attributes(attributes), outputs=[output], name=name
        )
        node.metadata_props.update(self._provenance)
        self.nodes.append(node)
        return output
