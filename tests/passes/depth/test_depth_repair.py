# SPDX-License-Identifier: Apache-2.0
"""Repair after a change of depth: what the layers that write to the stream aim at, against brute force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from graphs import graph, weights
from residual_chains import WIDTH, blocks, chain, part

from edgefold.calibration import Calibration
from edgefold.passes import SkipReason
from edgefold.passes.depth.repair import Uncut, repair_depth
from edgefold.passes.depth.surgery import cut_out
from edgefold.segments import Segments

Array = npt.NDArray[np.float32]
Feeds = list[dict[str, Array]]


def batches(*shape: int, count: int = 4, size: int = 60) -> Feeds:
    return [
        {"x": np.random.default_rng(seed).standard_normal((size, *shape)).astype(np.float32)} for seed in range(count)
    ]


def repaired(
    model: ir.Model, changed: ir.Model, targets: Mapping[str, str], feeds: Feeds, **options: Any
) -> tuple[ir.Model, Any]:
    fitted = changed.clone()
    return fitted, repair_depth(fitted, Uncut(model, Calibration(model, lambda: iter(feeds))), targets, **options)


def without(model: ir.Model, *numbers: int) -> ir.Model:
    changed = model.clone()
    cut_out(changed, *(blocks(changed)[number] for number in numbers))
    return changed


def values(model: ir.Model, name: str, feeds: Feeds) -> Array:
    return np.concatenate([batch[name] for batch in Segments(model, lambda: iter(feeds)).values([name])])


def error(mine: Array, theirs: Array) -> float:
    return float(np.square(mine - theirs).mean() / theirs.var())


def stored(model: ir.Model, name: str) -> Array:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value.numpy()


def test_the_block_before_a_cut_is_the_least_squares_solution_for_the_stream_after_it() -> None:
    feeds, model = batches(WIDTH), chain(3, last="h3")
    fitted, notes = repaired(model, without(model, 1, 2), {"h1": "h3"}, feeds, damping=0.01)
    seen, target = (
        values(model, "r0", feeds).astype(np.float64),
        values(model, "h3", feeds) - values(model, "h0", feeds),
    )
    design = np.column_stack([seen, np.ones(len(seen))])
    prior = np.vstack([stored(model, "u0"), np.zeros(WIDTH)])
    ridge = 0.01 * np.square(seen).sum(axis=0).mean() * np.diag([1.0] * seen.shape[1] + [0.0])
    expected = np.linalg.solve(design.T @ design + ridge, design.T @ target + ridge @ prior)
    np.testing.assert_allclose(stored(fitted, "u0"), expected[:-1], rtol=1e-3, atol=1e-4)
    assert [edit.node for edit in notes.edits] == ["down0"]
    assert notes.stats["error_after"] < notes.stats["error_before"]


def test_blocks_after_a_cut_make_up_for_what_is_left_of_it() -> None:
    feeds, held, model = batches(WIDTH), batches(WIDTH, count=9)[4:], chain(4, last="y")
    cut = without(model, 1)
    after, first = repaired(model, cut, {}, feeds)
    aimed, second = repaired(model, cut, {"h1": "h2"}, feeds)
    assert [edit.node for edit in first.edits] == ["down2", "down3"]
    assert [edit.node for edit in second.edits] == ["down0", "down2", "down3"]
    wanted = values(model, "y", held)
    errors = [error(values(one, "y", held), wanted) for one in (cut, after, aimed)]
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.9 * errors[1]


def test_all_refits_every_layer_whose_inputs_have_changed() -> None:
    feeds, model = batches(WIDTH), chain(3, last="y")
    _, notes = repaired(model, without(model, 1), {"h1": "h2"}, feeds, scope="all")
    assert [edit.node for edit in notes.edits] == ["down0", "up2", "down2", "head"]


def test_an_unchanged_model_stays_bit_for_bit() -> None:
    feeds, model = batches(WIDTH), chain(3)
    fitted, notes = repaired(model, model, {}, feeds)
    assert not notes.edits
    assert not notes.skips
    for name in model.graph.initializers:
        np.testing.assert_array_equal(stored(fitted, name), stored(model, name))


def test_a_silent_block_leaves_nothing_to_repair() -> None:
    feeds, model = batches(WIDTH), chain(3, silent=(1,), last="y")
    fitted, _ = repaired(model, without(model, 1), {"h1": "h2"}, feeds)
    np.testing.assert_allclose(values(fitted, "y", feeds), values(model, "y", feeds), rtol=1e-3, atol=1e-3)


NAKED = """g (float[n, 8] x) => (float[n, 8] h2) {
  h0 = Relu(x)  a = MatMul(h0, w)  d = MatMul(a, u)  h1 = Add(h0, d)  c = MatMul(h1, w)
  [last] e = MatMul(c, z)  h2 = Add(h1, e) }"""


def test_a_value_that_no_layer_writes_is_no_place_to_aim_from() -> None:
    feeds, model = batches(8), graph(NAKED, {name: weights(8, 8, seed=i) for i, name in enumerate("wuz")})
    cut = model.clone()
    known = ir.convenience.create_value_mapping(cut.graph)
    cut_out(cut, part(known["h0"], known["h1"]))
    _, notes = repaired(model, cut, {"h0": "h1"}, feeds)
    assert [(skip.node, skip.reason) for skip in notes.skips] == [("h0", SkipReason.NO_NEIGHBOUR)]
    assert [edit.node for edit in notes.edits] == ["last"]
    with pytest.raises(ValueError, match="no value 'h7'"):
        repaired(model, cut, {"h7": "h1"}, feeds)


def test_weights_that_others_use_keep_their_values_and_get_a_bias() -> None:
    feeds, model = batches(WIDTH), chain(3)
    shared = model.clone()
    nodes = {str(node.name): node for node in shared.graph}
    for old, new in (("w2", "w1"), ("u2", "u1")):
        nodes[{"w": "up", "u": "down"}[old[0]] + "2"].replace_input_with(1, shared.graph.initializers[new])
        del shared.graph.initializers[old]
    fitted, notes = repaired(model, shared, {}, feeds)
    assert [edit.node for edit in notes.edits] == ["down2"]
    np.testing.assert_array_equal(stored(fitted, "u1"), stored(model, "u1"))
    wanted = values(model, "h3", feeds).mean(axis=0)
    assert np.abs(values(shared, "h3", feeds).mean(axis=0) - wanted).max() > 1
    np.testing.assert_allclose(values(fitted, "h3", feeds).mean(axis=0), wanted, rtol=1e-5)


def test_an_excluded_layer_stays() -> None:
    feeds, model = batches(WIDTH), chain(3)
    _, notes = repaired(model, without(model, 1), {"h1": "h2"}, feeds, exclude=lambda name: name == "down2")
    assert [edit.node for edit in notes.edits] == ["down0"]
    assert [(skip.node, skip.reason) for skip in notes.skips] == [("down2", SkipReason.EXCLUDED)]


def post_norm() -> ir.Model:
    """Three blocks h = LayerNormalization(x + Relu(x W) U), each normalization with weights of its own."""
    lines, arrays = [], {}
    for i in range(3):
        start = f"h{i}" if i else "x"
        lines += [f"a{i} = MatMul({start}, w{i})", f"r{i} = Relu(a{i})", f"[down{i}] d{i} = MatMul(r{i}, u{i})"]
        lines += [f"s{i} = Add({start}, d{i})", f"[norm{i}] h{i + 1} = LayerNormalization(s{i}, g{i}, b{i})"]
        arrays |= {f"w{i}": weights(16, 24, seed=i), f"u{i}": weights(24, 16, seed=9 + i)}
        arrays |= {f"g{i}": 1 + weights(16, seed=20 + i), f"b{i}": weights(16, seed=30 + i)}
    return graph(f"g (float[n, 16] x) => (float[n, 16] h3) {{ {' '.join(lines)} }}", arrays)


def without_second(model: ir.Model) -> ir.Model:
    changed = model.clone()
    known = ir.convenience.create_value_mapping(changed.graph)
    cut_out(changed, part(known["h1"], known["h2"]))
    return changed


def test_behind_a_normalization_the_sum_is_aimed_at_and_its_weights_are_taken_over() -> None:
    feeds, model = batches(16), post_norm()
    fitted, notes = repaired(model, without_second(model), {"h1": "h2"}, feeds)
    np.testing.assert_array_equal(stored(fitted, "g0"), stored(model, "g1"))
    np.testing.assert_array_equal(stored(fitted, "b0"), stored(model, "b1"))
    assert [edit.node for edit in notes.edits] == ["norm0", "norm0", "down0", "down2"]
    wanted = values(model, "h2", feeds)
    assert error(values(fitted, "h1", feeds), wanted) < 0.5 * error(values(model, "h1", feeds), wanted)


STEM = """g (float[n, 8] x) => (float[n, 8] h2) {
  p = MatMul(x, v)  [stem] k = Add(p, b)  h0 = Relu(k)  a = MatMul(h0, w)  [down] d = MatMul(a, u)  s = Add(h0, d)
  h1 = Relu(s)  c = MatMul(h1, w)  e = MatMul(c, z)  t = Add(h1, e)  h2 = Relu(t) }"""


def test_before_the_first_block_the_layer_that_gives_the_stream_aims() -> None:
    names = {name: weights(8, 8, seed=i) / np.float32(3) for i, name in enumerate("vwuz")}
    feeds, model = batches(8), graph(STEM, {**names, "b": weights(8)})
    cut = model.clone()
    known = ir.convenience.create_value_mapping(cut.graph)
    cut_out(cut, part(known["h0"], known["h1"]))
    fitted, notes = repaired(model, cut, {"h0": "h1"}, feeds)
    assert not notes.skips
    assert len(notes.edits) == 2
    wanted = values(model, "h2", feeds)
    assert error(values(fitted, "h2", feeds), wanted) < 0.6 * error(values(cut, "h2", feeds), wanted)


RESNET = """g (float[n, 4, 6, 6] x) => (float[n, 4, 6, 6] h3) {
  c0 = Conv <pads = [1, 1, 1, 1]> (x, w0)  s0 = Add(c0, x)  h1 = Relu(s0)
  p = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (h1)
  c1 = Conv <pads = [1, 1, 1, 1]> (h1, w1, b1)  s1 = Add(c1, p)  h2 = Relu(s1)
  c2 = Conv <pads = [1, 1, 1, 1]> (h2, w2)  k = Conv(h2, w3)  s2 = Add(c2, k)  h3 = Relu(s2) }"""


def test_convolutions_before_a_relu_and_beside_a_second_convolution() -> None:
    arrays = {f"w{i}": weights(4, 4, 3, 3, seed=i) / np.float32(3) for i in range(3)}
    model = graph(RESNET, {**arrays, "b1": weights(4), "w3": weights(4, 4, 1, 1, seed=8)})
    feeds = batches(4, 6, 6, size=20)
    cut = without_second(model)
    fitted, notes = repaired(model, cut, {"h1": "h2"}, feeds)
    assert len([edit for edit in notes.edits if "refitted" in edit.what]) == 3
    wanted = values(model, "h3", feeds)
    assert error(values(fitted, "h3", feeds), wanted) < 0.6 * error(values(cut, "h3", feeds), wanted)


WIDER = """g (float[n, 8] x) => (float[n, 4] y) {
  h = Relu(x)  d = MatMul(h, w)  k = MatMul(d, v)  [sum] y = Add(k, d) }"""


def test_a_layer_that_is_broadcast_into_its_sum_is_refused_by_name() -> None:
    model = graph(WIDER, {"w": weights(8, 4), "v": weights(4, 1, seed=1)})
    changed = model.clone()
    changed.graph.initializers["w"].const_value = ir.tensor(weights(8, 4, seed=5), name="w")
    _, notes = repaired(model, changed, {}, batches(8))
    assert [skip.reason for skip in notes.skips] == [SkipReason.RANK]
