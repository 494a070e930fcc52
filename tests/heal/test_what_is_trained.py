# SPDX-License-Identifier: Apache-2.0
"""Which weights healing changes, adapters in their place, and which hidden tensors are compared."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch")

import torch
from damaged import damaged, healed, original, training, weights_of

from edgefold.errors import UsageError
from edgefold.heal import losses
from edgefold.heal.hidden import paired_hidden
from edgefold.heal.selection import adapted_weights, selected_weights
from edgefold.passes import Heal

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'
FEEDS = {"x": np.ones((2, 4), np.float32)}


def blocks(last: int = 4, names: str = "") -> ir.Model:
    """Three blocks of a layer and an addition; with ``names`` other nodes."""
    lines, stream, tensors = [], "x", {"b": np.ones(4, np.float32)}
    for number in range(3):
        lines.append(f"[{names}mul{number}] m{number} = MatMul({stream}, w{number})")
        lines.append(f"[{names}add{number}] s{number} = Add({stream}, m{number})")
        stream = f"s{number}"
        tensors[f"w{number}"] = np.random.default_rng(number).standard_normal((4, 4)).astype(np.float32)
    lines.append(f"[{names}bias] e = Add({stream}, b)\n[{names}head] y = MatMul(e, v)")
    tensors["v"] = np.ones((4, last), np.float32)
    text = "g (float[n, 4] x) => (float[n, k] y) {\n" + "\n".join(lines) + "\n}"
    return ir.from_onnx_text(HEADER + text, initializers=[ir.tensor(a, name=n) for n, a in tensors.items()])


def without_the_second() -> ir.Model:
    model = blocks()
    values = {value.name: value for node in model.graph for value in node.outputs}
    values["s1"].replace_all_uses_with(values["s0"])
    model.graph.remove([values["s1"].producer(), values["m1"].producer()], safe=True)  # type: ignore[list-item]
    return model


def test_what_enters_a_layer_is_paired_with_what_entered_it_before_a_block_went() -> None:
    assert paired_hidden(blocks(), blocks(), FEEDS) == (("s0", "s0"), ("s1", "s1"), ("e", "e"))
    assert paired_hidden(without_the_second(), blocks(), FEEDS) == (("s0", "s1"), ("e", "e"))


def test_without_names_of_nodes_the_names_of_tensors_count() -> None:
    other = blocks(names="other_")
    assert paired_hidden(without_the_second(), other, FEEDS) == (("s0", "s0"), ("e", "e"))


def test_given_pairs_hold_instead_of_those_found() -> None:
    given = (("s0", "s0"), ("m0", "m1"))
    found = paired_hidden(without_the_second(), blocks(), FEEDS, given)
    assert found == (("m0", "m1"), ("s0", "s0"), ("e", "e"))


@pytest.mark.parametrize(
    ("pair", "says"),
    [(("no", "s0"), "student computes no tensor 'no'"), (("s0", "no"), "teacher computes"), (("y", "s0"), "one shape")],
)
def test_a_pair_that_cannot_be_is_one_line(pair: tuple[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        paired_hidden(blocks(last=3), blocks(), FEEDS, (pair,))


def test_words_names_and_globs_select_weights() -> None:
    model = blocks()
    everything = selected_weights(model, ("all",))
    assert set(everything) == {"w0", "w1", "w2", "b", "v"}
    assert selected_weights(model, ("vectors",)) == ("b",)
    assert set(selected_weights(model, ("matrices",))) == set(everything) - {"b"}
    assert set(selected_weights(model, ("w[01]", "head"))) == {"w0", "w1", "v"}  # head is the node that reads v
    assert adapted_weights(model, everything, 1) == tuple(name for name in everything if name != "b")
    assert adapted_weights(model, everything, 2) == ()
    with pytest.raises(UsageError, match="--train nothing: no weight"):
        selected_weights(model, ("nothing",))


def test_only_what_was_asked_for_is_trained() -> None:
    model = damaged()
    done = healed(model, steps=8, batch=32, learning_rate=0.01, train=("vectors",))
    before, after = weights_of(damaged()), weights_of(model)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved
    assert all(before[name].ndim == 1 for name in moved)
    assert done.weights == sum(before[n].size for n in selected_weights(model, ("vectors",)))


def test_adapters_heal_and_fold_away() -> None:
    model = damaged()
    done = healed(model, epochs=6, learning_rate=0.03, adapters=2, train=("matrices",))
    assert done.history[-1].held_out < 0.7 * done.history[0].held_out
    before, after = weights_of(damaged()), weights_of(model)
    assert list(after) == list(before)
    assert [n.op_type for n in model.graph] == [n.op_type for n in original().graph]
    name, old = max(before.items(), key=lambda item: item[1].size if item[1].dtype == np.float32 else 0)
    change = (after[name] - old).reshape(len(old), -1)
    assert np.linalg.matrix_rank(change, tol=1e-4 * np.linalg.norm(change, 2)) == 2
    assert done.weights < sum(array.size for array in before.values()) / 4


def test_an_adapter_that_found_nothing_better_leaves_the_model_as_it_came() -> None:
    model = original()
    before = ir.to_proto(original()).SerializeToString(deterministic=True)
    healed(model, steps=2, adapters=2)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_what_the_losses_do_not_read_is_not_trained() -> None:
    first, last = _first_hidden(), selected_weights(original(), ("all",))[-1]
    with pytest.raises(UsageError, match="the losses read none"):
        healed(damaged(), steps=1, loss=("pairs",), pairs=(first,), train=(last,))


def _first_hidden() -> tuple[str, str]:
    run = training(damaged(), Heal(steps=1, loss=("blockwise",)))
    return run._objective.hidden[0]


def test_a_warm_up_compares_hidden_tensors_and_is_judged_by_what_comes_after() -> None:
    options = Heal(steps=10, batch=46, warm_up=0.5, threads=1)  # two epochs, the first of which is the warm-up
    run = training(damaged(), options)
    assert run._objective.described[0].startswith("the first 50 % of it blockwise")
    plain = training(damaged(), Heal(steps=10, batch=46, threads=1))
    blockwise = training(damaged(), Heal(steps=10, batch=46, threads=1, loss=("blockwise",)))
    got, others = run.run(), (plain.run(), blockwise.run())
    assert got.history[0].held_out == others[0].history[0].held_out  # the loss of the outputs
    assert got.history[1].training == pytest.approx(others[1].history[1].training, rel=1e-5)
    assert got.history[2].held_out < got.history[0].held_out
    assert got.history[2].training != others[1].history[2].training


def test_patience_does_not_count_while_warming_up() -> None:
    options = Heal(epochs=4, batch=46, warm_up=0.6, patience=1, threads=1)
    run = training(damaged(), options)
    worse = iter(range(9))
    run._held_out_loss = lambda: float(next(worse))  # type: ignore[method-assign]
    assert len(run.run().history) == 4  # as it came, two epochs of warm-up, and the first that counts


@pytest.mark.parametrize("distance", ["error", "error+cosine", "batch-kl"])
def test_every_distance_brings_the_outputs_back(distance: str) -> None:
    done = healed(damaged(0.4), epochs=2, loss=("blockwise",), learning_rate=0.01, distance=distance)
    assert done.history[-1].held_out < 0.8 * done.history[0].held_out


def test_distances_of_hidden_tensors_by_hand() -> None:
    ours, wanted = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]]), torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    assert float(losses.token_cosine_distance(ours, wanted)) == pytest.approx(0.5)  # padding counts as equal
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [0.0]])
    p = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    assert float(losses.batch_kl(a, b)) == pytest.approx(float((p * np.log(p / p[::-1])).sum() / 2))


def test_options_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(ValueError, match="names none"):
        Heal(loss=("pairs",))
    for options in ({"pairs": (("a", "b"),)}, {"distance": "batch-kl"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is of hidden tensors, which loss does not read"):
            Heal(**options)  # type: ignore[arg-type]
        Heal(**options, loss=("output", "tail"))  # type: ignore[arg-type]
        Heal(**options, warm_up=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names nothing to train"):
        Heal(train=())
