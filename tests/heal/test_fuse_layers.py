# SPDX-License-Identifier: Apache-2.0
"""The pass fuse-layers: what its neighbours take in of a removed block, and the plain model that is left."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch")

from edgefold.calibration import Calibration
from edgefold.errors import UsageError
from edgefold.heal.step import healer
from edgefold.passes import Context, FuseLayers, Notes, PreconditionError, SkipReason
from edgefold.passes.depth.blocks import find_stacks
from edgefold.passes.depth.fusion import plan_fusion
from edgefold.passes.remove_blocks import RemoveBlocks
from edgefold.perturbing import perturb
from edgefold.scoring.task import load_task
from edgefold.session import make_session

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'
WIDTH = 16
FAST = {"steps": 40, "learning_rate": 0.02, "rank": 2, "threads": 1}


def chain(*strengths: float) -> ir.Model:
    """Blocks ``x + strength * (Relu(LayerNorm(x) U + c) V)`` between two projections."""
    random = np.random.default_rng(0)

    def drawn(rows: int, columns: int) -> np.ndarray[Any, Any]:
        return (random.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)

    tensors = {"stem": drawn(WIDTH, WIDTH), "head": drawn(WIDTH, 5)}
    lines = ["s0 = MatMul(x, stem)"]
    for n, strength in enumerate(strengths):
        tensors |= {f"g{n}": np.ones(WIDTH, np.float32), f"c{n}": drawn(1, 24)[0]}
        tensors |= {f"u{n}": drawn(WIDTH, 24), f"v{n}": np.float32(strength) * drawn(24, WIDTH)}
        lines += [f"n{n} = LayerNormalization(s{n}, g{n})", f"a{n} = MatMul(n{n}, u{n})", f"b{n} = Add(a{n}, c{n})"]
        lines += [f"r{n} = Relu(b{n})", f"d{n} = MatMul(r{n}, v{n})", f"s{n + 1} = Add(s{n}, d{n})"]
    body = "\n".join([*lines, f"y = MatMul(s{len(strengths)}, head)"])
    text = f"{HEADER}g (float[n, {WIDTH}] x) => (float[n, 5] y) {{\n{body}\n}}"
    return ir.from_onnx_text(text, initializers=[ir.tensor(array, name=name) for name, array in tensors.items()])


def inputs() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((128, WIDTH)).astype(np.float32)


def context(model: ir.Model, folder: Path, **more: Any) -> Context:
    np.savez(folder / "data.npz", x=inputs())
    (folder / "task.yaml").write_text(
        "data: gone.npz\ninputs: {x: {array: x}}\nmetric: {name: mse, labels: y}\n"
        "calibration: {data: data.npz}\nbatch: 64\n"
    )
    batches = [{"x": inputs()[:64]}, {"x": inputs()[64:]}]
    made = {
        "calibration": Calibration(model.clone(), lambda: iter(batches)),
        "perturb": functools.partial(perturb, feeds=lambda: batches),
        "heal": healer(model.clone(), load_task(folder / "task.yaml"), 0, folder / "state"),
    }
    return Context(**{**made, **more})


def fused(model: ir.Model, folder: Path, around: Context | None = None, **options: Any) -> Notes:
    return msgspec.convert({**FAST, **options}, FuseLayers).rewrite(model, around or context(model, folder))


def error(model: ir.Model, original: ir.Model) -> float:
    """Relative squared error of the outputs on data that nothing was fitted to."""
    x = np.random.default_rng(2).standard_normal((256, WIDTH)).astype(np.float32)
    wanted, got = (make_session(one, threads=1).run(None, {"x": x})[0] for one in (original, model))
    return float(np.square(got - wanted).sum() / np.square(wanted).sum())


def text_of(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


@pytest.mark.parametrize("repair", ["none", "least-squares"])
def test_a_fused_model_is_plain_shallower_and_nearer_than_one_cut(repair: str, tmp_path: Path) -> None:
    original = chain(1.0, 0.4, 0.9, 1.0)
    cut, model = original.clone(), original.clone()
    RemoveBlocks(blocks=1, repair=repair).rewrite(cut, context(cut, tmp_path))
    notes = fused(model, tmp_path, blocks=1, repair=repair)
    assert [node.op_type for node in model.graph] == [node.op_type for node in cut.graph]
    assert set(model.graph.initializers) == set(cut.graph.initializers)
    (row,) = notes.table
    if repair == "none":  # of what the closed form leaves, a training this short gains nothing
        assert error(model, original) < 0.8 * error(cut, original)
        assert row["error_after_training"] < row["error_before_training"]
    assert error(model, original) <= error(cut, original)
    assert notes.stats["blocks_fused"] == 1


def test_the_second_fusion_starts_from_what_the_first_left(tmp_path: Path) -> None:
    original = chain(1.0, 0.3, 0.4, 1.0, 0.9)
    model = original.clone()
    notes = fused(model, tmp_path, blocks=2)
    assert [row["block"] for row in notes.table] in (["s2", "s3"], ["s3", "s2"])
    assert len(find_stacks(model)[0].blocks) == 3
    cut = original.clone()
    RemoveBlocks(blocks=2, repair="least-squares").rewrite(cut, context(cut, tmp_path))
    assert error(model, original) < error(cut, original)
    again = original.clone()
    fused(again, tmp_path, blocks=2)
    assert text_of(again) == text_of(model)


@pytest.mark.parametrize("options", [{"blocks": 0}, {"ratio": 0.1}])
def test_without_a_block_to_go_the_model_comes_back_as_it_was(options: dict[str, Any], tmp_path: Path) -> None:
    model = chain(1.0, 0.5, 1.0)
    notes = fused(model, tmp_path, **options)
    assert [skip.reason for skip in notes.skips] == [SkipReason.BELOW_THRESHOLD]
    assert not notes.edits
    assert text_of(model) == text_of(chain(1.0, 0.5, 1.0))


def test_without_blocks_or_data_it_says_so(tmp_path: Path) -> None:
    plain = ir.from_onnx_text(HEADER + "g (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }")
    assert FuseLayers().rewrite(plain, Context()).skips[0].reason == SkipReason.NO_BLOCKS
    assert FuseLayers().rewrite(chain(1.0, 1.0, 1.0), Context()).skips[0].reason == SkipReason.NO_CALIBRATION


def test_a_model_that_cannot_be_trained_comes_back_as_it_was(tmp_path: Path) -> None:
    def refuse(*_: Any) -> Any:
        raise PreconditionError("model", "has no gradient")

    model = chain(1.0, 0.5, 1.0)
    notes = fused(model, tmp_path, context(model, tmp_path, heal=refuse), blocks=1)
    assert notes.skips[-1].reason == SkipReason.NOT_APPLICABLE
    assert not notes.edits
    assert text_of(model) == text_of(chain(1.0, 0.5, 1.0))


def test_neighbours_without_float32_weights_take_nothing_in(tmp_path: Path) -> None:
    """Weights of half precision, or codes behind a DequantizeLinear."""
    model = chain(1.0, 0.5, 1.0)
    for name, value in list(model.graph.initializers.items()):
        assert value.const_value is not None
        stored = ir.val(f"{name}.half", const_value=ir.tensor(value.const_value.numpy().astype(np.float16)))
        cast = ir.node("Cast", [stored], {"to": int(ir.DataType.FLOAT)})
        value.replace_all_uses_with(cast.outputs[0])
        del model.graph.initializers[name]
        model.graph.initializers.add(stored)
        model.graph.insert_before(model.graph[0], cast)
    notes = fused(model, tmp_path, blocks=1)
    assert not notes.edits
    assert "have no float32 weights to train" in notes.skips[-1].detail


def test_kept_blocks_stay_by_the_numbers_that_they_had(tmp_path: Path) -> None:
    model = chain(0.1, 1.0, 0.2, 0.3)
    notes = fused(model, tmp_path, blocks=2, keep=(0, 3), steps=2)
    assert sorted(row["block"] for row in notes.table) == ["s2", "s3"]


def test_a_kept_block_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fuse-layers: keep: there is no block 3; the model's blocks are 0 to 2"):
        fused(chain(1.0, 0.4, 0.9), tmp_path, blocks=1, keep=[3])


def test_weights_of_the_same_place_are_donors_and_the_group_lies_around_the_block() -> None:
    model = chain(1.0, 1.0, 1.0, 1.0, 1.0)
    (stack,) = find_stacks(model)
    middle = plan_fusion(stack, stack.blocks[2], 2, 2)
    assert (middle.start, middle.end, middle.group_end) == ("s2", "s3", "s4")
    assert set(middle.donors) == {"u1", "v1", "u3", "v3"}
    assert set(middle.vectors) == {"g1", "c1", "g3", "c3"}
    for name, donor in middle.donors.items():
        np.testing.assert_array_equal(donor.numpy(), model.graph.initializers[f"{name[0]}2"].const_value.numpy())  # type: ignore[union-attr]
    first, last = plan_fusion(stack, stack.blocks[0], 2, 2), plan_fusion(stack, stack.blocks[4], 2, 2)
    assert (set(first.donors), first.group_end) == ({"u1", "v1", "u2", "v2"}, "s3")
    assert (set(last.donors), last.group_end) == ({"u2", "v2", "u3", "v3"}, "s4")
    assert len(plan_fusion(stack, stack.blocks[1], 9, 2).donors) == 8
    assert plan_fusion(stack, stack.blocks[1], 1, 12).donors == {}  # an adapter of that rank has more numbers


def test_options_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(ValueError, match="both say how much"):
        FuseLayers(blocks=1, ratio=0.5)
