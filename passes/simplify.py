# SPDX-License-Identifier: Apache-2.0
"""Simplify: what onnx-ir and onnxscript know how to remove from a graph, and sizes that need not be read."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from edgefold.passes._sizes import shorten_size_reads, target_of
from edgefold.passes._subgraphs import give_by_nodes
from edgefold.passes.base import OPTION, Context, Edit, Effect, Notes, Pass, Skip, SkipReason

_FOLD_INPUT_BYTES = 8192
_FOLD_OUTPUT_BYTES = 65536
# Folding these trades a small graph for a large tensor, or takes a quantized weight apart.
_NEVER_FOLD = frozenset({"ConstantOfShape", "DequantizeLinear", "Expand", "QuantizeLinear", "Range", "Tile"})
_EDGEFOLD = "ai.edgefold"


class Simplify(Pass, frozen=True, kw_only=True):
    """Folds small constants and known sizes, inlines functions, and removes what has no effect or exists twice.

    What it does: runs, in this order, function inlining, removal of identities, constant folding (results up to
    64 kB), common subexpression elimination, lifting of Constant nodes to initializers, deduplication of
    initializers, and removal of nodes, functions and imports that nothing uses. Nodes without a name get one. On the
    way of folding, the sizes of a Reshape become a constant in place of the nodes that read and join them, where each
    is known, or the input's own of that axis, or the only one that is not known.

    When it fires: on any model.

    When it does not: a constant larger than the limit is not folded, nor one whose folding would take a quantized
    weight apart or expand a tensor; a Reshape keeps its nodes where two sizes are unknown, or one beside a size that
    may be 0; functions of ``ai.edgefold`` are never inlined.

    Numerics: reassociated. Folded constants are computed by numpy instead of ONNX Runtime, each of whose operators
    is within a few units in the last place of it.

    Example: ``y = Identity(x + 0 * c)`` keeps its Add and its Mul, since only constants are folded, and loses the
    Identity.
    """

    effect: ClassVar[Effect] = Effect.REASSOCIATED

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        before = _inventory(model)
        interface = [(value, value.shape, value.type) for value in (*model.graph.inputs, *model.graph.outputs)]
        names = [str(value.name) for value in model.graph.outputs]
        weights = len(model.graph.initializers)
        with _without_defaults(model.graph):
            _pipeline()(model)
        for value, shape, kind in interface:
            value.shape, value.type = shape, kind
        for value, name in zip(model.graph.outputs, names, strict=True):
            value.name = name
        after = _inventory(model)
        edits = [Edit(name, f"removed {kind}") for name, kind in sorted(before.items()) if name not in after]
        merged = weights - len(model.graph.initializers)
        stats: dict[str, float | int | str] = {
            "nodes_before": len(before),
            "nodes_after": len(after),
            "initializers_merged": max(merged, 0),
        }
        removed = Counter(before.values()) - Counter(after.values())
        stats.update({f"removed.{kind}": count for kind, count in sorted(removed.items())})
        if merged > 0 and not edits:
            edits.append(Edit("model", f"merged {merged} initializers"))
        skips = () if edits else (Skip("model", SkipReason.NOTHING_TO_GAIN, "it is as simple as can be"),)
        return Notes(tuple(edits), skips, stats)


@contextlib.contextmanager
def _without_defaults(graph: ir.Graph) -> Iterator[None]:
    """Shows the optional inputs that passes gave the model as inputs only: with their defaults they seem constants."""
    options = [(value, value.const_value) for value in graph.inputs if OPTION in value.metadata_props]
    for value, _ in options:
        graph.initializers.pop(str(value.name), None)
        value.const_value = None
    yield
    for value, default in options:
        value.const_value = default
        graph.register_initializer(value)


def _pipeline() -> ir.passes.Sequential:
    # Both take a second to import and only this pass needs them.
    from onnx_ir.passes import common

    return ir.passes.Sequential(
        common.InlinePass(criteria=lambda function: function.domain != _EDGEFOLD),
        common.RemoveInitializersFromInputsPass(),
        _identity_elimination(),
        _ShortenSizeReads(),
        _constant_folding(),
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        _LayRowByRow(),
        common.DeduplicateHashedInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.OutputFixPass(),
        _GiveByNodes(),
        common.NameFixPass(),
    )


def _constant_folding() -> ir.passes.InPlacePass:
    from onnxscript.optimizer import constant_folding

    class ConstantFolding(constant_folding.FoldConstantsPass):  # type: ignore[misc]
        """Writes the target of a Reshape as a constant where it is one but for sizes that Reshape finds itself."""

        def process_node(self, node: ir.Node, is_function: bool) -> Any:
            if node.op_type == "Reshape" and node.domain == "" and not node.attributes.get_int("allowzero", 0):
                self._settle(node)
            return super().process_node(node, is_function)

        def _settle(self, node: ir.Node) -> None:
            x, sizes = node.inputs
            wanted = self._state.get_shape_value(sizes)
            if x is None or sizes is None or x.shape is None or wanted is None or wanted.is_static():
                return
            target = target_of(x.shape, wanted)
            if target is not None and isinstance(node.graph, ir.Graph):
                made = ir.node("Constant", [], {"value_ints": ir.AttrInt64s("value_ints", target)})
                node.graph.insert_before(node, made)
                made.outputs[0].const_value = ir.tensor(target, dtype=ir.DataType.INT64)
                made.outputs[0].shape, made.outputs[0].type = ir.Shape([len(target)]), ir.TensorType(ir.DataType.INT64)
                node.replace_input_with(1, made.outputs[0])

    return ConstantFolding(
        shape_inference=True,
        input_size_limit=_FOLD_INPUT_BYTES,
        output_size_limit=_FOLD_OUTPUT_BYTES,
        should_fold=lambda node: False if node.op_type in _NEVER_FOLD else None,
    )


class _ShortenSizeReads(ir.passes.InPlacePass):
    """See `shorten_size_reads`."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        shorten_size_reads(model)
        return ir.passes.PassResult(model, modified=True)


def _identity_elimination() -> ir.passes.InPlacePass:
    from onnx_ir.passes import common

    class IdentityElimination(common.IdentityEliminationPass):
        """Leaves the nodes by which a body gives what lies outside of it: no value is an output of two graphs."""

        def _try_eliminate_identity_node(self, node: ir.Node) -> bool:
            given, outside = (
                node.outputs[0],
                [value for value in node.inputs if value and value.graph is not node.graph],
            )
            return not (given.is_graph_output() and outside) and super()._try_eliminate_identity_node(node)

    return IdentityElimination()


class _GiveByNodes(ir.passes.InPlacePass):
    """See `give_by_nodes`."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        give_by_nodes(model)
        return ir.passes.PassResult(model, modified=True)


class _LayRowByRow(ir.passes.InPlacePass):
    """Copies stored arrays that are views of others, as a folded Transpose leaves them: they cannot be hashed."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for value in [value for graph in model.graphs() for value in graph.initializers.values()]:
            tensor = value.const_value
            if isinstance(tensor, ir.Tensor) and not (array := tensor.numpy()).flags.c_contiguous:
                value.const_value = ir.Tensor(np.ascontiguousarray(array), tensor.dtype, name=tensor.name)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _inventory(model: ir.Model) -> dict[str, str]:
    """Operator of every node, by the name of its first output."""
    return {str(node.outputs[0].name): node.op_type for node in model.graph.all_nodes() if node.outputs}
