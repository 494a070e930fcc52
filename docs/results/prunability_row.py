# SPDX-License-Identifier: Apache-2.0
"""One row of the prunability table: half of a model's multiply-accumulates cut away, and everything checked.

    python docs/results/prunability_row.py MODEL.onnx RECORD.json

The record tells the stage that was reached, also when a later one fails or the process is ended.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from prunability_runs import Feeds, answers, compare, exposed, sized_runs, speedup

from edgefold.errors import EdgefoldError, ModelError
from edgefold.files.loading import load_model
from edgefold.passes.base import PreconditionError
from edgefold.passes.prune_channels import PruneChannels
from edgefold.passes.pruning.analysis import Analysis
from edgefold.passes.pruning.budget import Budget, Goal, macs
from edgefold.passes.pruning.candidates import Attention, candidates
from edgefold.passes.pruning.cut import cut
from edgefold.passes.pruning.dependencies import analyse
from edgefold.passes.pruning.groups import Exactness, Group, Pruned
from edgefold.passes.pruning.importance import group_scores
from edgefold.passes.pruning.masking import masked
from edgefold.passes.pruning.prepare import prepare, share
from edgefold.passes.pruning.selection import Limits, classes_of, select
from edgefold.passes.pruning.weight_scores import l1
from edgefold.probing import probe


class Row:
    """The measurements of one model, written to a file after every stage."""

    def __init__(self, path: Path, record: Path) -> None:
        self.path, self.record = path, record
        self.found: dict[str, Any] = {"source": path.parent.name, "name": path.stem, "stage": "load"}

    def note(self, stage: str, **values: Any) -> None:
        self.found.update(values, stage=stage)
        self.record.write_text(json.dumps(self.found, indent=1))

    def measure(self) -> None:
        self.note("load")
        original = load_model(self.path).model
        self.note("run the original", nodes=sum(1 for _ in original.graph.all_nodes()))
        feeds, reference = sized_runs(original)
        PruneChannels().requires(original)
        self.note("prepare")
        started = time.process_time()
        prepared = original.clone()
        ties = prepare(prepared)
        self.note("probe", prepare_seconds=time.process_time() - started, runs=len(feeds))
        trace = probe(prepared, feeds[0])
        self.note("analyse")
        started = time.process_time()
        dependencies = analyse(prepared, trace, ties)
        seconds = time.process_time() - started
        known = Analysis(prepared, ties, trace, dependencies)
        self.note("choose", analyse_seconds=seconds, macs=macs(dependencies, trace)({}), **listing(known))
        for mode in (half_of_the_macs, half_of_the_channels):
            self.one_cut(mode, known, feeds, reference)
        self.note("done")

    def one_cut(
        self, mode: Callable[[Analysis], Pruned], known: Analysis, feeds: list[Feeds], reference: list[Feeds]
    ) -> None:
        """Cut by one choice, compare with the oracle, and measure what is left."""
        prepared, dependencies, trace = known.model, known.dependencies, known.trace
        place: dict[str, Any] = {}
        self.note(f"choose: {mode.__name__}", **{mode.__name__: place})
        started = time.process_time()
        pruned = mode(known)
        place["choose_seconds"] = time.process_time() - started
        cost = macs(dependencies, trace)
        place["macs_kept"] = cost(dependencies.kept(pruned)) / max(cost({}), 1.0)
        self.note(f"cut: {mode.__name__}")
        small = prepared.clone()
        started = time.process_time()
        cut(small, dependencies, trace, pruned)
        share(small)
        place["cut_seconds"] = time.process_time() - started
        place["weights_kept"] = weights(small) / max(weights(prepared), 1)
        place["units"] = int(sum(len(units) for units in pruned.values()))
        self.note(f"check: {mode.__name__}")
        check(small, prepared)
        self.note(f"oracle: {mode.__name__}")
        if declared(prepared) != declared(small):
            raise ModelError(f"the interface changed: {declared(prepared)} became {declared(small)}")
        inner = late_products(known, pruned)
        zeroed = masked(prepared, dependencies, trace, pruned)
        whole, wanted, found = (answers(exposed(one, inner), feeds) for one in (prepared, zeroed, small))
        place["oracle"] = max(map(compare, wanted, found))
        place["changed"] = max(map(compare, whole, wanted))
        place["prepared"] = max(map(compare, reference, whole))
        self.note(f"time: {mode.__name__}")
        if mode is half_of_the_macs and pruned:
            place["speedup"] = speedup(prepared, small, feeds[0])


def half_of_the_macs(known: Analysis) -> Pruned:
    """The least important units by weights alone, so that half of the multiply-accumulates stay.

    Channels in eights, which kernels like; if that does not suffice, any number, and dimensions of all heads.
    """
    budget = Budget((Goal.of("flops", macs(known.dependencies, known.trace), 0.5),), known.dependencies.kept)
    choices: tuple[tuple[Attention, int], ...] = (("heads", 8), ("heads", 1), ("both", 1))
    for attention, multiple in choices:
        groups, scores = ranked(known, attention)
        limits = {one.name: Limits(multiple=multiple) for one in groups}
        selection = select(groups, scores, budget, limits, classes_of(groups, "uniform", {}))
        if selection.met:
            break
    return selection.pruned


def half_of_the_channels(known: Analysis) -> Pruned:
    """The less important half of the units of every group; of two factors of one axis, of the first."""
    groups, scores = ranked(known, "heads")
    taken: dict[tuple[str, int], np.ndarray[Any, Any]] = {}
    chosen = {}
    for group in groups:
        free = all(not (taken.get((one.parameter, one.axis), False) & (one.units >= 0)).any() for one in group.slices)
        if free and group.size > 1:
            chosen[group.name] = np.sort(np.argsort(scores[group.name])[: group.size // 2])
            for one in group.slices:
                key = one.parameter, one.axis
                taken[key] = taken.get(key, False) | (one.units >= 0)
    return chosen


def ranked(known: Analysis, attention: Attention) -> tuple[tuple[Group, ...], Any]:
    """The exact groups that may go, and the scores of their units by weights."""
    found = candidates(known, attention=attention, statistics=False, excludes=lambda _name: False).groups
    stored = known.model.graph.initializers
    weights_of = {name: value.const_value.numpy() for name, value in stored.items() if value.const_value}
    scores = group_scores(found, l1(weights_of), normalize="mean")
    return tuple(one for one in found if one.name in scores), scores


def listing(known: Analysis) -> dict[str, Any]:
    """How much of the model can be pruned at all, what stands in the way, and whether heads can go."""
    dependencies = known.dependencies
    exact = {one.name: np.arange(one.size) for one in dependencies.groups if one.exactness == Exactness.EXACT}
    one_unit = {name: units[:1] for name, units in exact.items() if len(units) > 1}
    moved = dependencies.kept(one_unit)
    softmaxes = attention_weights(known.model)
    headed = sum(any((name, axis) in moved for axis in range(len(known.trace.shapes[name]))) for name in softmaxes)
    return {
        "groups": len(dependencies.groups),
        "exact_groups": len(exact),
        "exact_units": sum(len(units) for units in exact.values()),
        "attentions": len(softmaxes),
        "attentions_with_heads": headed,
        "barriers": [f"{one.op_type} {one.node}: {one.why} ({one.channels})" for one in dependencies.barriers[:3]],
    }


def attention_weights(model: ir.Model) -> list[str]:
    """Outputs of softmaxes that are multiplied with values, and of fused attention nodes."""
    found = []
    for node in model.graph:
        name = str(node.outputs[0].name)
        if node.op_type == "Attention":
            found.append(name)
        if node.op_type == "Softmax" and "MatMul" in readers(node, depth=3):
            found.append(name)
    return found


def readers(node: ir.Node, depth: int) -> set[str]:
    """Operators that read a node's first output, directly or through a few others."""
    direct = {reader for reader, _ in node.outputs[0].uses()}
    types = {reader.op_type for reader in direct}
    further = [one for one in direct if one.op_type in ("Dropout", "Cast", "Where", "Reshape", "Identity", "Expand")]
    return types.union(*(readers(one, depth - 1) for one in further)) if depth else types


def weights(model: ir.Model) -> int:
    """Elements of float initializers of two axes and more; those that share a tensor count once."""
    tensors = {id(value.const_value): value.const_value for value in model.graph.initializers.values()}
    counted = [one for one in tensors.values() if one is not None and one.dtype.is_floating_point()]
    return sum(one.size for one in counted if len(one.shape) > 1)


def check(small: ir.Model, prepared: ir.Model) -> None:
    """The checker with strict shape inference; stored shapes count where those of the original are right."""
    proto = ir.to_proto(small)
    if not shapes_fit(prepared):  # some exporters write wrong ones
        del proto.graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)


def shapes_fit(model: ir.Model) -> bool:
    try:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    except onnx.shape_inference.InferenceError:
        return False
    return True


def late_products(known: Analysis, pruned: Pruned) -> list[str]:
    """The last matrix products of unchanged shape: they tell more than an ArgMax or a saturated output."""
    moved = {name for name, _ in known.dependencies.kept(pruned)}
    products = {one.node for one in known.dependencies.contractions}
    names = [str(node.outputs[0].name) for node in known.model.graph if node.name in products]
    return [name for name in names if name not in moved][-3:]


def declared(model: ir.Model) -> list[str]:
    """Names, types and shapes of inputs and outputs, as the file states them."""
    return [f"{one.name} {one.type} {one.shape}" for one in (*model.graph.inputs, *model.graph.outputs)]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    row = Row(Path(sys.argv[1]), Path(sys.argv[2]))
    try:
        row.measure()
    except (
        EdgefoldError,
        PreconditionError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        row.note(row.found["stage"], error=f"{type(error).__name__}: {error}"[:400])
