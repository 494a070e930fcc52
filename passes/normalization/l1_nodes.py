# SPDX-License-Identifier: Apache-2.0
"""L1LayerNormalization nodes: how they are made, how they come to write codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._constants import small_constant
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Edit, Skip, SkipReason
from edgefold.passes.quantization.shift_nodes import DOMAIN

Array = npt.NDArray[np.float64]
_OP_TYPE = "L1LayerNormalization"
_LARGEST = 2.0**30  # of codes before they are clipped; the kernels convert them to int32


@dataclasses.dataclass(frozen=True)
class L1Node:
    """One node; gamma and beta are its own."""

    node: ir.Node

    @classmethod
    def make(
        cls,
        name: str,
        x: ir.Value,
        gamma: ir.Value,
        beta: ir.Value,
        store: InitializerStore,
        *,
        epsilon: float,
        centred: bool,
    ) -> L1Node:
        """A node of float32 input and output, in no graph yet."""
        attributes = {
            "epsilon": epsilon,
            "centred": int(centred),
            "x_codes": 0,
            "activation_high": 0,
            "y_dtype": int(ir.DataType.FLOAT),
        }
        shifts = store.add("edgefold.zero_shift", np.zeros(1, np.uint8))
        output = ir.Value(name=f"{name}_output", type=ir.TensorType(ir.DataType.FLOAT))
        inputs = [x, gamma, beta, shifts]
        return cls(
            ir.Node(
                DOMAIN, _OP_TYPE, inputs, ir.convenience.convert_attributes(attributes), outputs=[output], name=name
            )
        )

    @property
    def label(self) -> str:
        return node_label(self.node)

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def gamma(self) -> npt.NDArray[np.float32]:
        return self._parameter(1)

    @property
    def beta(self) -> npt.NDArray[np.float32]:
        return self._parameter(2)

    def _parameter(self, position: int) -> npt.NDArray[np.float32]:
        array = small_constant(self.node.inputs[position])
        assert array is not None, "the operator's parameters are initializers"
        return np.asarray(array, np.float32)

    def set_parameters(self, gamma: Array, beta: Array) -> None:
        """Exchanges gamma and beta."""
        for position, array in ((1, gamma), (2, beta)):
            value = self.node.inputs[position]
            assert value is not None
            value.const_value = ir.tensor(array.astype(np.float32), name=value.name)


def l1_nodes(graph: ir.Graph) -> Iterator[L1Node]:
    """All nodes of the operator in the main graph."""
    return (L1Node(node) for node in graph if node.domain == DOMAIN and node.op_type == _OP_TYPE)


@dataclasses.dataclass(frozen=True)
class _Codes:
    """The static codes that a ShiftMatMul makes of its input."""

    high: int
    scale: float
    shifts: tuple[int, ...]


def code_outputs(graph: ir.Graph, store: InitializerStore, nodes: Sequence[L1Node]) -> tuple[list[Edit], list[Skip]]:
    """Lets nodes write the codes that the matrix products behind them would make, where these agree."""
    edits, skips = [], []
    for node in nodes:
        if node.node.attributes.get_int("activation_high", 0) or node.output.is_graph_output():
            continue
        wanted = [(use.node, _codes(use.node)) for use in node.output.uses()]
        codes = {one for _, one in wanted if one is not None}
        if len(codes) > 1:
            skips.append(Skip(node.label, SkipReason.FALLBACK, "its readers ask for different codes: y stays float"))
        elif codes:
            reason = _write_codes(graph, store, node, codes.pop(), [reader for reader, one in wanted if one])
            if reason is None:
                edits.append(Edit(node.label, "writes codes"))
            else:
                skips.append(Skip(node.label, SkipReason.FALLBACK, reason))
    return edits, skips


def _codes(reader: ir.Node) -> _Codes | None:
    """What a reader makes of its input; None where it is no matrix product of symmetric static codes."""
    if reader.domain != DOMAIN or reader.op_type != "ShiftMatMul":
        return None
    if reader.attributes.get_int("x_codes", 0) != 0:
        return None
    high = reader.attributes.get_int("activation_high", 0)
    scale, shifts = (small_constant(reader.inputs[position]) for position in (6, 7))
    if not high or reader.attributes.get_int("activation_low", 0) != -high or scale is None or shifts is None:
        return None
    step = float(np.asarray(scale, np.float32).reshape(-1)[0])
    return _Codes(high, step, tuple(int(shift) for shift in shifts)) if step > 0 else None


def _write_codes(
    graph: ir.Graph, store: InitializerStore, node: L1Node, codes: _Codes, products: Sequence[ir.Node]
) -> str | None:
    """Turns y into codes, tells the products, and dequantizes for all others; why not, where that cannot be."""
    gamma, beta = node.gamma.astype(np.float64), node.beta.astype(np.float64)
    shifts = np.array(codes.shifts, np.uint8)
    steps = codes.scale * np.exp2(shifts.astype(np.float64))
    if np.abs(gamma / steps).max() * len(gamma) + np.abs(beta / steps).max() > _LARGEST:
        return "codes would leave int32"
    name, y = str(node.output.name), node.output
    inputs = list(node.node.inputs)
    if shifts.any():
        inputs[3] = store.add(f"{name}.shifts", shifts)
    attributes = [*node.node.attributes.values()]
    written = ir.Value(name=f"{name}.codes", type=ir.TensorType(ir.DataType.INT8), shape=y.shape)
    fused = ir.Node(DOMAIN, _OP_TYPE, inputs, attributes, outputs=[written], name=node.node.name)
    fused.attributes.add(ir.AttrInt64("activation_high", codes.high))
    fused.attributes.add(ir.AttrInt64("y_dtype", int(ir.DataType.INT8)))
    fused.metadata_props.update(node.node.metadata_props)
    L1Node(fused).set_parameters(gamma / steps, beta / steps)
    for product in products:
        product.replace_input_with(0, written)
        product.attributes.add(ir.AttrInt64("x_codes", 1))
    graph.insert_after(node.node, fused)
    if y.uses():
        scale = store.add(f"{name}.scale", np.array(codes.scale, np.float32))
        floats = ir.Node("", "DequantizeLinear", [written, scale], num_outputs=1, name=f"{node.label}/dequantize")
        floats.metadata_props.update(node.node.metadata_props)
        ir.convenience.replace_nodes_and_values(graph, fused, [node.node], [floats], [y], [floats.outputs[0]])
    else:
        graph.remove(node.node, safe=True)
    return None
