# SPDX-License-Identifier: Apache-2.0
"""quantize-attention with ``cache: int8``: which caches become codes, what the model then takes, and what it gives."""

from __future__ import annotations

import json

import cached_decoder
import graphs
import numpy as np
import onnx_ir as ir
import pytest
from cached_decoder import FORMS, Call, coded_in_pieces, in_pieces

from edgefold.errors import EdgefoldError
from edgefold.float_caches import FloatCaches, native_call, quantize_rows
from edgefold.measuring.measure import model_macs
from edgefold.passes import Context, Notes
from edgefold.passes.base import CACHES
from edgefold.passes.quantize_attention import QuantizeAttention
from edgefold.probing import probe
from edgefold.session import make_session

POSITIONS = 40
SHAPES = {"x": (2, 3, 16), "past_k": (2, 2, 5, 8), "past_v": (2, 2, 5, 8), "mask": (2, 8)}


def rewritten(model: ir.Model, cache: str = "int8") -> Notes:
    return QuantizeAttention(cache=cache).rewrite(model, Context(probe=lambda one: probe(one, shapes=SHAPES)))  # type: ignore[arg-type]


def opened(model: ir.Model, library: bool) -> Call:
    """A run of the model as it is stored."""
    try:
        session = make_session(model, threads=1, library=library)
    except EdgefoldError as missing:
        pytest.skip(str(missing))
    native = session.native if isinstance(session, FloatCaches) else session
    return lambda feeds: native.run(None, feeds)


def text() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).integers(-8, 9, (2, POSITIONS, 16)).astype(np.float32) / 8
    mask = np.ones((2, POSITIONS), np.int64)
    mask[1, :2] = 0  # a shorter text, filled up on the left
    return x, mask


def test_attention_over_a_cache_can_be_left_alone() -> None:
    model = cached_decoder.decoder("boolean: scores where seen")
    before = graphs.nodes(model)
    notes = rewritten(model, "leave")
    assert graphs.nodes(model) == before
    assert [str(skip.reason) for skip in notes.skips] == ["nothing to gain"]
    assert "stays float and so does attention over it" in str(notes.stats["finding"])
    assert not notes.caches


@pytest.mark.parametrize("library", [True, False], ids=["kernels", "stock"])
@pytest.mark.parametrize("form", FORMS)
def test_forty_steps_give_the_bits_of_a_float_cache(form: str, library: bool) -> None:
    x, mask = text()
    seen = mask.astype(bool)
    coded, floats = cached_decoder.decoder(form), cached_decoder.decoder(form)
    notes = rewritten(coded)
    assert [edit.what.split()[0] for edit in notes.edits] == ["CachedAttention"]
    assert not notes.skips
    assert notes.caches == ("past_k", "past_v")
    assert "(past_k, past_v) and its present are int8 now" in str(notes.stats["finding"])
    left = rewritten(floats, "float")
    assert not left.caches
    assert not left.skips
    assert "(past_k, past_v) stays float and is quantized anew at each step" in str(left.stats["finding"])
    ends = [7, *range(8, POSITIONS + 1)]
    expected = in_pieces(opened(floats, library), x, ends, mask)
    found = coded_in_pieces(opened(coded, library), x, ends, mask)
    np.testing.assert_array_equal(found[seen], expected[seen])
    exact = in_pieces(opened(cached_decoder.decoder(form), False), x, ends, mask)
    # Scores move by about 1 in 127 of q and of k, and that of v: a few hundredths of the result at worst.
    assert np.abs(found - exact)[seen].max() < 0.08 * np.abs(exact[seen]).max()


def test_the_interface_and_what_says_so() -> None:
    model = cached_decoder.decoder("eager: added, least float")
    rewritten(model)
    ports = {
        value.name: (value.dtype, list(value.shape or ())) for value in (*model.graph.inputs, *model.graph.outputs)
    }
    for name, last in (("past_k", 8), ("past_v", 8), ("k", 8), ("v", 8)):
        codes, scales = ports[name], ports[f"{name}_scales"]
        assert codes == (ir.DataType.INT8, [*codes[1][:3], last])
        assert scales == (ir.DataType.FLOAT, [*codes[1][:3], 1])
    assert [value.name for value in model.graph.inputs][:4] == ["x", "past_k", "past_v", "mask"]
    assert [value.name for value in model.graph.outputs][:3] == ["y", "k", "v"]
    assert json.loads(model.metadata_props[CACHES]) == [
        {"past": f"past_{n}", "past_scales": f"past_{n}_scales", "present": n, "present_scales": f"{n}_scales"}
        for n in "kv"
    ]
    operators = [node.op_type for node in model.graph]
    assert not {"Expand", "Softmax"} & set(operators)  # heads that share keys read them once
    assert operators.count("QuantizeRows") == 2


def test_a_session_takes_floats_for_codes() -> None:
    """Tasks, and comparisons with the original, go on as they did."""
    form = "two masks"
    coded, floats = cached_decoder.decoder(form), cached_decoder.decoder(form)
    rewritten(coded)
    rewritten(floats, "float")
    try:
        session, other = (make_session(model, threads=1) for model in (coded, floats))
    except EdgefoldError as missing:
        pytest.skip(str(missing))
    assert [(one.name, one.type) for one in session.get_inputs()] == [
        (one.name, one.type) for one in other.get_inputs()
    ]
    assert [(one.name, one.type) for one in session.get_outputs()] == [
        (one.name, one.type) for one in other.get_outputs()
    ]
    rng = np.random.default_rng(1)
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items() if name != "mask"}
    feeds["mask"] = np.ones((2, 8), np.int64)
    (y, k, v), (expected, whole_k, _) = session.run(None, feeds), other.run(None, feeds)
    # Codes of the floats that codes stand for are those codes; their steps may differ in the last bit.
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    codes, scales = quantize_rows(whole_k)
    np.testing.assert_allclose(k, codes * scales, rtol=1e-6)
    assert session.run(["v"], feeds)[0].tobytes() == v.tobytes()
    outputs = native_call(session, feeds)()  # what `bench` takes the time of
    assert isinstance(outputs, list)
    assert [array.dtype for array in outputs] == [np.float32, np.int8, np.int8, np.float32, np.float32]


KEYS = "k = Concat<axis=2>(past_k, k2)"
VALUES = "v = Concat<axis=2>(past_v, v2)"
READ = "kt = Transpose<perm=[0,1,3,2]>(k) p = MatMul(q, kt) w = Softmax(p) y = MatMul(w, v)"
STEP = "float[b,2,t,8] q, float[b,2,t,8] k2, float[b,2,t,8] v2"
PAST = "float[b,2,p,8] past_k, float[b,2,p,8] past_v"
OUT = "float[b,2,t,8] y, float[b,2,n,8] k, float[b,2,n,8] v"
OUT_Z = f"{OUT}, float[1,1,1,1] z"
NEAR_MISSES = {
    "the present read elsewhere": (
        f"{STEP}, {PAST}", OUT_Z, f"{KEYS} {VALUES} {READ} z = ReduceMax(k)", "k is read by",
    ),
    "the past read elsewhere": (
        f"{STEP}, {PAST}", OUT_Z, f"{KEYS} {VALUES} {READ} z = ReduceMax(past_v)", "past_v is read by",
    ),
    "swapped keys read elsewhere": (
        f"{STEP}, {PAST}", OUT_Z, f"{KEYS} {VALUES} {READ} z = ReduceMax(kt)", "k is read by",
    ),
    "a past that is no input": (
        f"{STEP}, float[b,2,p,8] stored, float[b,2,p,8] past_v", OUT, f"past_k = Neg(stored) {KEYS} {VALUES} {READ}",
        "past_k is no input of the graph",
    ),
    "a present that does not go out": (
        f"{STEP}, {PAST}", "float[b,2,t,8] y, float[b,2,n,8] k", f"{KEYS} {VALUES} {READ}", "v is no output",
    ),
    "keys alone": (
        "float[b,2,t,8] q, float[b,2,t,8] k2, float[b,2,n,8] v2, float[b,2,p,8] past_k",
        "float[b,2,t,8] y, float[b,2,n,8] k", f"{KEYS} {READ}", "no past",
    ),
    "no cache at all": (STEP, "float[b,2,t,8] y", READ, "no past"),
    "keys kept by columns": (
        "float[b,2,t,8] q, float[b,2,8,t] k2, float[b,2,t,8] v2, float[b,2,8,p] past_k, float[b,2,p,8] past_v",
        "float[b,2,t,8] y, float[b,2,8,n] k, float[b,2,n,8] v",
        f"k = Concat<axis=3>(past_k, k2) {VALUES} p = MatMul(q, k) w = Softmax(p) y = MatMul(w, v)",
        "keys by columns",
    ),
    "positions before heads": (
        "float[b,2,t,8] q, float[b,t,2,8] k2, float[b,2,t,8] v2, float[b,p,2,8] past_k, float[b,2,p,8] past_v",
        "float[b,2,t,8] y, float[b,n,2,8] k, float[b,2,n,8] v",
        f"k = Concat<axis=1>(past_k, k2) {VALUES} kt = Transpose<perm=[0,2,3,1]>(k) p = MatMul(q, kt) w = Softmax(p) "
        "y = MatMul(w, v)",
        "keys by columns",
    ),
    "three parts": (
        f"{STEP}, {PAST}", OUT, f"k = Concat<axis=2>(past_k, k2, k2) v = Concat<axis=2>(past_v, v2, v2) {READ}",
        "joins 3 values",
    ),
    "heads repeated in another order": (
        f"float[b,4,t,8] q, float[b,2,t,8] k2, float[b,2,t,8] v2, {PAST}",
        "float[b,4,t,8] y, float[b,2,n,8] k, float[b,2,n,8] v",
        f"{KEYS} {VALUES} n1 = Shape<start=2, end=3>(k) b1 = Shape<start=0, end=1>(k) "
        "five = Concat<axis=0>(b1, two, two, n1, eight) four = Concat<axis=0>(b1, four_heads, n1, eight) "
        "ku = Unsqueeze(k, one) ke = Expand(ku, five) keys = Reshape(ke, four) "
        "vu = Unsqueeze(v, one) ve = Expand(vu, five) values = Reshape(ve, four) "
        "kt = Transpose<perm=[0,1,3,2]>(keys) p = MatMul(q, kt) w = Softmax(p) y = MatMul(w, values)",
        "no past",
    ),
}  # fmt: skip
NEW = {"k2": "k", "v2": "v"}


def near_miss(case: str) -> tuple[ir.Model, dict[str, np.ndarray]]:
    ends, outputs, body, _ = NEAR_MISSES[case]
    made = set(NEW.values()) - {name for name in NEW.values() if f"{name} = Concat" in body}
    for name in made:
        body = body.replace(f" {name})", f" {name}2)").replace(f"({name})", f"({name}2)")
    words = set(body.replace(",", " ").replace("(", " ").replace(")", " ").split())
    lists = {name: np.array(list_) for name, list_ in cached_decoder.LISTS.items() if name in words}
    model = graphs.graph(f"agraph ({ends}) => ({outputs}) {{{body}}}", lists)
    model.graph.opset_imports[""] = 21
    rng = np.random.default_rng(0)
    sizes = {"b": 2, "t": 3, "p": 5, "n": 8}
    shapes = {
        value.name: [size if isinstance(size, int) else sizes[str(size)] for size in value.shape or ()]
        for value in model.graph.inputs
    }
    return model, {str(n): rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_keep_a_float_cache_and_say_why(case: str) -> None:
    model, feeds = near_miss(case)
    before = [(value.name, value.dtype) for value in (*model.graph.inputs, *model.graph.outputs)]
    expected = graphs.run(model, feeds)
    notes = QuantizeAttention(cache="int8").rewrite(model, Context(probe=lambda one: probe(one, feeds=feeds)))
    [skip] = notes.skips
    assert str(skip.reason) == "fell back to a simpler method"
    assert NEAR_MISSES[case][3] in skip.detail
    assert [edit.what.split()[0] for edit in notes.edits] == ["ShiftAttention"]
    assert not notes.caches
    assert "finding" not in notes.stats
    assert CACHES not in model.metadata_props
    assert [(value.name, value.dtype) for value in (*model.graph.inputs, *model.graph.outputs)] == before
    for found, wanted in zip(graphs.run(model, feeds), expected, strict=True):
        assert np.abs(found - wanted).max() < 0.08 * np.abs(wanted).max()


@pytest.mark.parametrize("cache", ["float", "int8"])
def test_multiply_accumulates_are_those_of_before(cache: str) -> None:
    model = cached_decoder.decoder("boolean: scores where seen")
    model.opset_imports[""] = 21
    before = model_macs(model, SHAPES)
    rewritten(model, cache)
    assert before is not None
    assert model_macs(model, SHAPES) == before
