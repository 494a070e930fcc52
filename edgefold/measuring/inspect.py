# SPDX-License-Identifier: Apache-2.0
"""What is inside a model: operators, shapes, weights, bits, multiply-accumulates, and what quantize would skip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgefold.errors import ModelError
from edgefold.measuring.blocks import StackRow, blocks_text, list_blocks
from edgefold.measuring.experts import ExpertsRow, experts_text, list_experts
from edgefold.measuring.macs import NodeMacs, node_macs, total_macs
from edgefold.measuring.measure import bits_per_weight, model_weights, stored_matrices
from edgefold.measuring.packed_weights import EDGEFOLD
from edgefold.measuring.text_table import count_text, text_table
from edgefold.random_feeds import check_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgefold.files.loading import LoadedModel

Shape = tuple[int, ...]
# Node, reason, detail.
SkipRow = tuple[str, str, str]


@dataclass(frozen=True)
class Layer:
    """A node that multiplies matrices.

    Attributes:
        node: its name.
        operator: its type, with the domain where it is not ONNX's own.
        output: the output's shape at the inspected input shapes; None where it is unknown.
        macs: multiply-accumulates; None where a shape is unknown.
        weights: elements of its weight; None where both factors are activations.
        bits: stored bits per weight, everything counted; None likewise.
    """

    node: str
    operator: str
    output: Shape | None
    macs: int | None
    weights: int | None
    bits: float | None


@dataclass(frozen=True)
class Inspection:
    """The content of a model.

    Attributes:
        model: the file.
        bytes: its size with external data.
        opset: the versions of the operator sets, by domain.
        exporter: the tool that wrote it, as the file says.
        inputs, outputs: name, type and shape of each, as text.
        operators: type -> how many, most frequent first.
        weights: weight elements.
        bits_per_weight: of MatMul, Gemm and Conv weights.
        macs: multiply-accumulates at ``shapes``; None where a shape stays unknown.
        shapes: the input shapes that the figures are for.
        layers: the nodes that multiply matrices, in order.
        stacks: the runs of repeated residual blocks, in order.
        experts: the mixture-of-experts layers, in order.
        skips: nodes that quantize would leave alone, each with the reason.
        notes: what the user should know.
    """

    model: str
    bytes: int
    opset: dict[str, int]
    exporter: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int]
    weights: int
    bits_per_weight: float | None
    macs: int | None
    shapes: dict[str, Shape]
    layers: tuple[Layer, ...]
    stacks: tuple[StackRow, ...]
    experts: tuple[ExpertsRow, ...]
    skips: tuple[SkipRow, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON document of ``edgefold inspect``."""
        plain = asdict(self)
        plain["skips"] = [{"node": node, "reason": reason, "detail": detail} for node, reason, detail in self.skips]
        return plain

    def to_text(self) -> str:
        """The model on a page."""
        bits = "" if self.bits_per_weight is None else f", {self.bits_per_weight:.2f} bits each in MatMul, Gemm, Conv"
        shapes = ", ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in self.shapes.items())
        opset = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.opset.items())
        lines = [
            f"{self.model}: {self.bytes / 1e6:.2f} MB, {opset}, written by {self.exporter or 'an unknown tool'}",
            *(f"  in   {port}" for port in self.inputs),
            *(f"  out  {port}" for port in self.outputs),
            f"{count_text(self.weights)} weights{bits}; {count_text(self.macs)} multiply-accumulates"
            + (f" at {shapes}" if shapes else ""),
            "operators: " + ", ".join(f"{count} {name}" for name, count in self.operators.items()),
        ]
        if self.layers:
            header = ("node", "operator", "output", "weights", "bits", "MACs")
            lines += ["", text_table(header, [_row(layer) for layer in self.layers], left=2)]
        lines += ["", *blocks_text(self.stacks), *experts_text(self.experts), *_skip_lines(self.skips)]
        return "\n".join([*lines, *self.notes])


def inspect(
    loaded: LoadedModel,
    shapes: Mapping[str, Shape] | None = None,
    skips: Callable[[ir.Model], Sequence[SkipRow]] | None = None,
) -> Inspection:
    """Looks into a model, and runs parts of it only where it may hold mixture-of-experts layers.

    Args:
        loaded: the model.
        shapes: sizes of inputs with dynamic dimensions; a first dynamic dimension is 1 where nothing is given.
        skips: tells what quantize would leave alone; None: `quantize_skips`.

    Raises:
        UsageError: a shape for an input that does not exist, or one that contradicts the model.
    """
    model = loaded.model
    complete, notes = completed_shapes(model, shapes or {})
    try:
        work = node_macs(model, complete)
    except ModelError as error:
        work, notes = [], [*notes, str(error)]
    unknown = sum(one.macs is None for one in work)
    if unknown:
        notes.append(f"The shapes of {unknown} nodes are unknown; --shape INPUT=AxB sets dynamic dimensions.")
    experts, unknown_experts = list_experts(model, complete)
    return Inspection(
        model=str(loaded.path),
        bytes=loaded.bytes,
        opset=dict(model.opset_imports),
        exporter=" ".join(part for part in (model.producer_name, model.producer_version) if part),
        inputs=tuple(_port(value) for value in model.graph.inputs),
        outputs=tuple(_port(value) for value in model.graph.outputs),
        operators=_operators(model),
        weights=model_weights(model),
        bits_per_weight=bits_per_weight(model),
        macs=total_macs(work) if work else None,
        shapes=complete,
        layers=_layers(model, work),
        stacks=list_blocks(model),
        experts=experts,
        skips=tuple((skips or quantize_skips)(model)),
        notes=(*loaded.notes, *notes, *unknown_experts),
    )


def quantize_skips(model: ir.Model) -> list[SkipRow]:
    """The nodes with weights that the quantize pass would leave alone, and why."""
    from edgefold.passes import Skip
    from edgefold.passes._weighted_nodes import node_label, weighted_nodes

    # Packed operators are what quantize makes; it has nothing left to do there.
    packed = {node_label(node) for node in model.graph.all_nodes() if node.domain == EDGEFOLD}
    skips = [found for found in weighted_nodes(model) if isinstance(found, Skip) and found.node not in packed]
    return [(skip.node, str(skip.reason), skip.detail) for skip in skips]


def completed_shapes(model: ir.Model, given: Mapping[str, Shape]) -> tuple[dict[str, Shape], list[str]]:
    """The input shapes that are known, a first dynamic dimension taken as 1 where nothing is given; and what to say.

    Raises:
        UsageError: a shape for an input that does not exist, or one that contradicts the model.
    """
    check_shapes({value.name or "": value.shape for value in model.graph.inputs}, given)
    complete: dict[str, Shape] = {}
    guessed = []
    for value in model.graph.inputs:
        name, shape = value.name or "", value.shape
        if name in given:
            complete[name] = given[name]
        elif shape is not None and len(shape):
            sizes = [size if isinstance(size, int) else None for size in shape]
            if sizes[0] is None:
                sizes[0] = 1
                guessed.append(name)
            known = tuple(size for size in sizes if size is not None)
            if len(known) == len(sizes):
                complete[name] = known
    return complete, [f"The batch of {', '.join(guessed)} is taken as 1."] if guessed else []


def _operators(model: ir.Model) -> dict[str, int]:
    return dict(Counter(_operator(node) for node in model.graph.all_nodes()).most_common())


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _layers(model: ir.Model, work: Sequence[NodeMacs]) -> tuple[Layer, ...]:
    operators = {node.name or node.outputs[0].name: _operator(node) for node in model.graph.all_nodes()}
    matrices = {node: matrix for matrix in stored_matrices(model) for node in matrix.nodes}
    layers = []
    for one in work:
        matrix = matrices.get(one.node)
        weights = None if matrix is None else matrix.weights
        bits = matrix.bits / matrix.weights if matrix and matrix.weights else None
        operator = operators.get(one.node, one.operator)
        layers.append(Layer(one.node, operator, one.output, one.macs, weights, bits))
    return tuple(layers)


def _port(value: ir.Value) -> str:
    shape = "?" if value.shape is None else ", ".join(str(size) for size in value.shape)
    return f"{value.name} {value.dtype} [{shape}]"


def _row(layer: Layer) -> tuple[str, ...]:
    output = "-" if layer.output is None else "x".join(map(str, layer.output))
    bits = "-" if layer.bits is None else f"{layer.bits:.2f}"
    return layer.node, layer.operator, output, count_text(layer.weights), bits, count_text(layer.macs)


def _skip_lines(skips: Sequence[SkipRow]) -> list[str]:
    if not skips:
        return ["quantize would skip no node with weights."]
    lines = [f"  {node}: {reason}{f' ({detail})' if detail else ''}" for node, reason, detail in skips]
    return [f"quantize would skip {len(skips)} node{'s' if len(skips) > 1 else ''}:", *lines]
