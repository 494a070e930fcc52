# SPDX-License-Identifier: Apache-2.0
"""Sharing of the matrices that the user calls by name, such as queries and keys."""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir as ir
import pytest
from block_networks import WIDTH, Network
from residual_stacks import context_of, stack

from edgefold.errors import UsageError
from edgefold.files.loading import load_model
from edgefold.passes import Context, Notes, ShareWeights
from edgefold.passes.depth.blocks import find_stacks
from edgefold.passes.depth.sharing.naming import fused_projections

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("EDGEFOLD_DATA", ROOT.parent / "shared" / "data"))


def shared(model: ir.Model, **options: object) -> tuple[ir.Model, Notes]:
    changed = model.clone()
    return changed, ShareWeights(groups=((1, 2),), refits=0, **options).rewrite(changed, Context())  # type: ignore[arg-type]


def left(model: ir.Model) -> set[str]:
    return {name for name in model.graph.initializers if name.startswith(("up", "down"))}


@pytest.mark.parametrize("glob", ["up*", "h?_up", "h1_up", "up2"])
def test_a_glob_means_the_weight_or_the_node_that_reads_it_in_any_block(glob: str) -> None:
    changed, notes = shared(stack(3), weights=(glob,), source="first")
    assert left(changed) == {"up0", "up1", "down0", "down1", "down2"}
    assert notes.stats["stored"] == round(2 / 3, 4)  # of the matrices that were meant
    assert not notes.skips[1:]


def test_several_globs_are_added_up_and_keep_counts_what_they_mean() -> None:
    model = stack(5)
    both, _ = shared(model, weights=("up*", "*_down"))
    assert left(both) == left(shared(model)[0])
    alone = model.clone()
    notes = ShareWeights(keep=0.6, weights=("down*",), refits=1).rewrite(alone, context_of(model))
    assert len([name for name in left(alone) if name.startswith("down")]) == 3
    assert len([name for name in left(alone) if name.startswith("up")]) == 5
    assert notes.stats["stored"] == 0.6


def test_a_glob_that_means_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError) as refusal:
        shared(stack(3), weights=("up*", "*query*"))
    assert str(refusal.value) == (
        "share-weights: weights: *query*: no matrix of the blocks, and no node that reads one, is called so; "
        "there are h0_up, h0_down"
    )


def test_a_vector_is_not_meant() -> None:
    with pytest.raises(UsageError, match=r"weights: c\*: no matrix"):
        shared(stack(3), weights=("c*",))


def test_queries_and_keys_in_one_matrix_cannot_be_told_apart() -> None:
    network = Network()
    value = "x"
    for _ in range(3):
        fused = network.add("MatMul", network.norm(value), network.weight(WIDTH, 3 * WIDTH))
        q = network.add("Split", fused, attributes="<axis = -1, num_outputs = 3>", outputs=3)
        k = network.add("Transpose", f"{q}_1", attributes="<perm = [0, 2, 1]>")
        mixed = network.add("MatMul", network.add("Softmax", network.add("MatMul", q, k)), f"{q}_2")
        value = network.add("Add", value, network.linear(mixed))
        value = network.add("Add", value, network.feed_forward(network.norm(value)))
    model = network.model(value)
    [stack] = find_stacks(model)
    [site] = {site.label for half in stack.blocks[1].halves for site in fused_projections(half)}
    with pytest.raises(UsageError, match="several of queries, keys and values are the one matrix of "):
        shared(model, weights=("*query*",))
    _, notes = shared(model, weights=(site,))  # the near miss: shared whole
    assert len(notes.edits) == 1


@pytest.mark.parametrize(("name", "fused"), [("gpt_charlm", False), ("vit_mnist", True), ("models/char_lm", True)])
def test_queries_and_keys_of_real_models(name: str, fused: bool) -> None:
    folder = ROOT / name if name.startswith("models/") else DATA / name
    if not (folder / "model.onnx").exists():
        pytest.skip(f"{folder}/model.onnx is not there; EDGEFOLD_DATA names the folder of real models")
    model = load_model(folder / "model.onnx").model
    if fused:
        with pytest.raises(UsageError, match="several of queries, keys and values are the one matrix"):
            shared(model, weights=("*q_proj*", "*k_proj*"))
        return
    changed, notes = shared(model, weights=("*q_proj*", "*k_proj*"))
    assert len(notes.edits) == 2
    assert len(changed.graph.initializers) == len(model.graph.initializers) - 2
