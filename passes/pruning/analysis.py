# SPDX-License-Identifier: Apache-2.0
"""A model made ready for pruning, with all that is known of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import onnx_ir as ir

from edgefold.passes.base import Edit
from edgefold.passes.pruning.dependencies import analyse
from edgefold.passes.pruning.groups import Dependencies, Trace
from edgefold.passes.pruning.norms import fold_means
from edgefold.passes.pruning.prepare import Ties, prepare


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """What the choice, the cut and the repair start from.

    Attributes:
        model: prepared.
        ties: names of initializers that are one matrix.
        trace: shapes of the model's values, from a run.
        dependencies: its groups.
        centred: the normalizations that no longer subtract a mean.
    """

    model: ir.Model
    ties: Ties
    trace: Trace
    dependencies: Dependencies
    centred: tuple[Edit, ...] = ()

    @classmethod
    def of(cls, model: ir.Model, probe: Callable[[ir.Model], Trace], *, centre: bool = False) -> Analysis:
        """Prepares a model in place, runs it, and analyses it.

        Args:
            model: the caller's own.
            probe: runs it.
            centre: take the means out of residual streams where that makes their channels exact; see `norms`.
        """
        ties = prepare(model)
        trace = probe(model)
        centred = tuple(fold_means(model, trace)) if centre else ()
        trace = probe(model) if centred else trace
        return cls(model, ties, trace, analyse(model, trace, ties), centred)

    @property
    def op_types(self) -> Mapping[str, str]:
        """Operator of each node by the node's name."""
        return {str(node.name): node.op_type for node in self.model.graph.all_nodes()}

    @property
    def parameters(self) -> list[str]:
        """Names of the initializers that hold weights."""
        tensors = {name: value.const_value for name, value in self.model.graph.initializers.items()}
        return [name for name, tensor in tensors.items() if tensor is not None and tensor.dtype.is_floating_point()]
