# SPDX-License-Identifier: Apache-2.0
"""Which weights a training changes: all, kinds of them, or those that names and globs point at."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import onnx_ir as ir

from edgefold.errors import UsageError
from edgefold.heal.packed_weights import packed_weights
from edgefold.heal.weights import weights
from edgefold.passes.adapters import pays

KINDS = ("all", "matrices", "vectors")
LISTED = 5


def selected_weights(model: ir.Model, asked: Sequence[str]) -> tuple[str, ...]:
    """Names of the trainable tensors of a model that were asked for, in the order of the graph.

    Args:
        model: of which `edgefold.heal.weights` and `packed_weights` are trainable.
        asked: "all", "matrices", "vectors", and names or globs, each of a weight or of a node that reads it.

    Raises:
        UsageError: a name that points at nothing; lists some of what there is.
    """
    dimensions = {name: sum(size > 1 for size in tensor.shape.numpy()) for name, tensor in weights(model).items()}
    dimensions |= dict.fromkeys(packed_weights(model), 2)
    readers = _readers(model)
    chosen: set[str] = set()
    for word in asked:
        if word in KINDS:
            chosen |= {name for name, count in dimensions.items() if word == "all" or (count > 1) == (word[0] == "m")}
            continue
        found = {
            name
            for name in dimensions
            if any(other == word or fnmatch.fnmatchcase(other, word) for other in (name, *readers.get(name, ())))
        }
        if not found:
            listed = ", ".join(list(dimensions)[:LISTED])
            raise UsageError(f"--train {word}: no weight and no node with weights is called so; there are {listed} ...")
        chosen |= found
    return tuple(name for name in dimensions if name in chosen)


def adapted_weights(model: ir.Model, chosen: Sequence[str], rank: int) -> tuple[str, ...]:
    """Those of the chosen weights that a low-rank adapter stands in for: float32 initializers that it is smaller than.

    Raises:
        UsageError: one of them is quantized, into which nothing can be folded.
    """
    packed = packed_weights(model)
    for name in chosen:
        if name in packed:
            raise UsageError(
                f"--adapters {rank}: '{name}' holds codes, into which nothing can be folded; heal before quantize, or "
                "without adapters"
            )
    initializers = model.graph.initializers
    return tuple(
        name
        for name in chosen
        if (value := initializers.get(name)) is not None
        and value.const_value is not None
        and value.const_value.dtype == ir.DataType.FLOAT
        and pays(value.const_value.shape.numpy(), rank)
    )


def _readers(model: ir.Model) -> dict[str, list[str]]:
    """Initializer -> names of the nodes that read it."""
    found: dict[str, list[str]] = {}
    for graph in model.graphs():
        for node in graph:
            for value in node.inputs:
                if value is not None and node.name:
                    found.setdefault(str(value.name), []).append(node.name)
    return found
