# SPDX-License-Identifier: Apache-2.0
"""quantize-attention: which softmaxes become ShiftAttention, in what forms, and how near the result is."""

from __future__ import annotations

import contextlib

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from edgefold import nodewise
from edgefold.errors import VerificationError
from edgefold.passes import Context, Notes
from edgefold.passes.quantize_attention import QuantizeAttention
from edgefold.probing import probe

HEAD = "agraph (float[b,2,s,8] q, float[b,2,t,8] k, float[b,2,t,8] v, float[b,1,1,t] m) => (float[b,2,s,8] y)"
SWAP = "kt = Transpose<perm=[0,1,3,2]>(k)"
FORMS = {
    "scaled and masked": f"{SWAP} p = MatMul(q, kt) d = Div(p, c) a = Add(d, m) w = Softmax(a) y = MatMul(w, v)",
    "mask on the left": f"{SWAP} p = MatMul(q, kt) d = Mul(p, c) a = Add(m, d) w = Softmax<axis=3>(a) y = MatMul(w, v)",
    "not masked": f"{SWAP} p = MatMul(q, kt) d = Mul(p, c) w = Softmax(d) y = MatMul(w, v)",
    "not scaled": f"{SWAP} p = MatMul(q, kt) a = Add(p, m) w = Softmax(a) y = MatMul(w, v)",
    "keys swapped elsewhere": f"{SWAP} i = Relu(kt) p = MatMul(q, i) w = Softmax(p) y = MatMul(w, v)",
}


def feeds(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = {
        name: rng.standard_normal((2, 2, size, 8)).astype(np.float32) for name, size in (("q", 5), ("k", 9), ("v", 9))
    }
    mask = np.where(rng.random((2, 1, 1, 9)) < 0.3, np.float32(-10000), np.float32(0))
    return rows | {"m": mask}


def attention(text: str) -> ir.Model:
    constants = {"c": np.array(2.5, np.float32)} if "c)" in text else {}
    model = graphs.graph(f"{HEAD} {{{text}}}", constants)
    model.graph.opset_imports[""] = 21
    return model


def quantize(model: ir.Model, **context: object) -> Notes:
    return QuantizeAttention().rewrite(model, Context(probe=lambda one: probe(one, feeds=feeds()), **context))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_exporters(form: str) -> None:
    model = attention(FORMS[form])
    used = {str(value.name) for value in model.graph.inputs}
    inputs = {name: array for name, array in feeds().items() if name in used}
    [before] = graphs.run(model, inputs)
    notes = quantize(model)
    assert [edit.node for edit in notes.edits] == ["w"]
    assert [node.op_type for node in model.graph if node.domain] == ["ShiftAttention"]
    assert not {"Softmax", "MatMul", "Add"} & {node.op_type for node in model.graph}
    [after] = graphs.run(model, inputs)
    # Scores move by about 1 in 127 of q and of k, and that of v: a few hundredths of the result at worst.
    assert np.abs(after - before).max() < 0.08 * np.abs(before).max()


def test_without_a_cache_nothing_is_left_alone() -> None:
    model = attention(FORMS["not masked"])
    left = QuantizeAttention(cache="leave").rewrite(model, Context(probe=lambda one: probe(one, feeds=feeds())))
    assert len(left.edits) == 1
    assert not left.skips


def test_a_swap_that_only_the_product_needed_goes() -> None:
    model = attention(FORMS["not masked"])
    quantize(model)
    assert [node.op_type for node in model.graph] == ["ShiftAttention"]
    assert model.graph.node(0).inputs[1] is model.graph.inputs[1]


NEAR_MISSES = {
    "a softmax that ends a classifier": "z = Add(q, q) y = Softmax(z)",
    "no product of scores": "z = Add(q, m2) w = Softmax(z) y = MatMul(w, sq)",
    "scores read beside": f"{SWAP} p = MatMul(q, kt) w = Softmax(p) x = MatMul(w, v) n = ReduceMax(p) y = Add(x, n)",
    "over another axis": f"{SWAP} p = MatMul(q, kt) w = Softmax<axis=2>(p) y = MatMul(w, v)",
    "weights on the right": f"{SWAP} p = MatMul(q, kt) w = Softmax(p) x = MatMul(p2, w) y = MatMul(x, v)",
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_are_left_alone(case: str) -> None:
    text = NEAR_MISSES[case]
    constants = {
        "m2": graphs.weights(8),
        "sq": graphs.weights(8, 8),
        "p2": graphs.weights(5, 5),
    }
    model = graphs.graph(f"{HEAD} {{{text}}}", {name: array for name, array in constants.items() if name in text})
    model.graph.opset_imports[""] = 21
    before = graphs.nodes(model)
    notes = quantize(model)
    assert graphs.nodes(model) == before
    assert not notes.edits


def test_an_output_and_an_exclusion_are_skips() -> None:
    model = attention(FORMS["not masked"])
    assert [str(skip.reason) for skip in quantize(model, exclude=("w",)).skips] == ["excluded by the user"]
    weights = next(node for node in model.graph if node.op_type == "Softmax").outputs[0]
    model.graph.outputs.append(weights)
    assert [str(skip.reason) for skip in quantize(model).skips] == ["the value is a graph output"]


REASONS = {
    "a softcap": (f"{SWAP} p = MatMul(q, kt) d = Tanh(p) w = Softmax(d) y = MatMul(w, v)", "a form that the pass"),
    "a factor after the mask": (
        f"{SWAP} p = MatMul(q, kt) a = Add(p, m) d = Mul(a, c) w = Softmax(d) y = MatMul(w, v)",
        "a form that the pass",
    ),
    "a number that hides nothing": (
        f"{SWAP} p = MatMul(q, kt) n = Less(m, c) a = Where(n, c, p) w = Softmax(a) y = MatMul(w, v)",
        "a form that the pass",
    ),
    "keys for all heads": (
        "kt = Transpose<perm=[0,1,3,2]>(k1) p = MatMul(q, kt) w = Softmax(p) y = MatMul(w, v)",
        "by broadcasting",
    ),
    "zeros that others read": (
        f"{SWAP} p = MatMul(q, kt) w0 = Softmax(p) n = IsNaN(w0) w = Where(n, z, w0) x = MatMul(w, v) "
        "s = ReduceMax(w) y = Add(x, s)",
        "has several readers",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_is_not_taken_says_why(case: str) -> None:
    text, reason = REASONS[case]
    constants = {"c": np.array(2.5, np.float32), "z": np.zeros((), np.float32), "k1": graphs.weights(1, 1, 9, 8)}
    words = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    model = graphs.graph(f"{HEAD} {{{text}}}", {name: array for name, array in constants.items() if name in words})
    before = graphs.nodes(model)
    [skip] = quantize(model).skips
    assert reason in str(skip)
    assert graphs.nodes(model) == before


def test_attention_in_one_operator_is_a_skip() -> None:
    ends = "(float[b,2,s,8] q, float[b,2,t,8] k, float[b,2,t,8] v) => (float[b,2,s,8] y)"
    model = graphs.graph(f"own {ends} {{y = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v)}}", {})
    assert ["the operator MultiHeadAttention" in str(skip) for skip in quantize(model).skips] == [True]


ROWS = "agraph (float[b,s,16] q, float[b,t,16] k, float[b,t,16] v, float[b,1,1,t] m) => (float[b,s,16] y)"
SPLIT = "{x}r = Reshape({x}, split) {x}h = Transpose<perm=[0,2,1,3]>({x}r) "
KEYS = {
    "heads before rows": SPLIT.format(x="k") + "kt = Transpose<perm=[0,1,3,2]>(kh) ",
    "heads before columns": "kr = Reshape(k, split) kt = Transpose<perm=[0,2,3,1]>(kr) ",
}
PRODUCTS = "p = MatMul(qh, kt) d = Mul(p, c) a = Add(d, m) w = Softmax(a) z = MatMul(w, vh) "
JOIN = "zt = Transpose<perm=[0,2,1,3]>(z) y = Reshape(zt, join)"


def rows_model(text: str, **constants: np.ndarray) -> ir.Model:
    known = {
        "c": np.array(0.3, np.float32),
        "split": np.array([0, -1, 2, 8]),
        "join": np.array([0, -1, 16]),
    } | constants
    words = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    model = graphs.graph(f"{ROWS} {{{text}}}", {name: array for name, array in known.items() if name in words})
    model.graph.opset_imports[""] = 21
    return model


def rows_feeds() -> dict[str, np.ndarray]:
    split = feeds()
    return {name: x.swapaxes(1, 2).reshape(2, -1, 16) if name in "qkv" else x for name, x in split.items()}


def quantize_rows(model: ir.Model) -> Notes:
    return QuantizeAttention().rewrite(model, Context(probe=lambda one: probe(one, feeds=rows_feeds())))


@pytest.mark.parametrize("keys", KEYS)
def test_heads_side_by_side_stay_so(keys: str) -> None:
    model = rows_model(SPLIT.format(x="q") + KEYS[keys] + SPLIT.format(x="v") + PRODUCTS + JOIN)
    [before] = graphs.run(model, rows_feeds())
    quantize_rows(model)
    [node] = model.graph
    assert node.op_type == "ShiftMultiHeadAttention"
    assert [str(value.name) for value in node.inputs] == ["q", "k", "v", "m"]
    assert {name: node.attributes.get_int(name) for name in ("num_heads", "kv_num_heads")} == {
        "num_heads": 2,
        "kv_num_heads": 2,
    }
    [after] = graphs.run(model, rows_feeds())
    assert np.abs(after - before).max() < 0.08 * np.abs(before).max()


SPLIT_ELSEWHERE = {
    "the result is read with its heads split": (
        SPLIT.format(x="q") + KEYS["heads before rows"] + SPLIT.format(x="v") + PRODUCTS
        + "zt = Transpose<perm=[0,2,1,3]>(z) j = Reshape(zt, join) s = ReduceMax(z) y = Add(j, s)"
    ),
    "queries are rotated between": (
        SPLIT.format(x="q").replace("qh =", "q0 =") + "qh = Mul(q0, rotation) "
        + KEYS["heads before rows"] + SPLIT.format(x="v") + PRODUCTS + JOIN
    ),
    "a branch joins them": (
        SPLIT.format(x="q") + KEYS["heads before rows"] + SPLIT.format(x="v") + PRODUCTS
        + "[choose] y = If(flag) <then_branch = one () => (float[b,s,16] o) {"
        "j = Constant<value = int64[3] {0, -1, 16}>() zt = Transpose<perm=[0,2,1,3]>(z) o = Reshape(zt, j)}, "
        "else_branch = other () => (float[b,s,16] n) {n = Neg(q)}>"
    ),
    "rows and samples in one": (
        SPLIT.format(x="q") + KEYS["heads before rows"] + SPLIT.format(x="v") + PRODUCTS
        + "zt = Transpose<perm=[0,2,1,3]>(z) f = Reshape(zt, flat) g = Reshape(f, shape) y = Identity(g)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPLIT_ELSEWHERE)
def test_heads_that_others_read_split_stay_split(case: str) -> None:
    constants = {
        "rotation": graphs.weights(1, 1, 5, 8),
        "flag": np.array(True),
        "flat": np.array([-1, 16]),
        "shape": np.array([2, 5, 16]),
    }
    model = rows_model(SPLIT_ELSEWHERE[case], **constants)
    [before] = graphs.run(model, rows_feeds())
    quantize_rows(model)
    assert [node.op_type for node in model.graph if node.domain] == ["ShiftAttention"]
    [after] = graphs.run(model, rows_feeds())
    assert np.abs(after - before).max() < 0.08 * np.abs(before).max()


@pytest.mark.parametrize(("share", "allowed"), [(5e-4, True), (5e-3, False)])
def test_weights_may_turn_where_the_exponential_ends_in_other_bits(
    share: float, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof of portability allows as many turned codes as the bits of an exponential can turn, and no more."""
    model = attention(FORMS["scaled and masked"])
    quantize(model)
    [node] = nodewise.custom_nodes(model)
    kernel = np.asarray(nodewise.run_node(model, node, {value.name: feeds()[value.name] for value in node.inputs}))
    body = kernel * np.float32(1 + share)
    monkeypatch.setattr(nodewise, "run_outputs", lambda *_, library=True, **__: [kernel if library else body])
    with contextlib.nullcontext() if allowed else pytest.raises(VerificationError, match="as it is written"):
        nodewise.prove_portable(model, feeds())
