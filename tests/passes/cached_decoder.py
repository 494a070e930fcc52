# SPDX-License-Identifier: Apache-2.0
"""A decoder attention with a key/value cache as exporters write it: two heads of keys for four of queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import graphs
import numpy as np
import onnx_ir as ir

HEADS, KEY_HEADS, DEPTH, WIDTH = 4, 2, 8, 16

ENDS = "float[b,t,16] x, float[b,2,p,8] past_k, float[b,2,p,8] past_v, int64[b,n] mask"
PRESENT = "float[b,t,32] y, float[b,2,n,8] k, float[b,2,n,8] v"
HEADS_SPLIT = """
    xq = MatMul(x, wq) q1 = Reshape(xq, split) q = Transpose<perm=[0,2,1,3]>(q1)
    xk = MatMul(x, wk) k1 = Reshape(xk, split) k2 = Transpose<perm=[0,2,1,3]>(k1)
    xv = MatMul(x, wv) v1 = Reshape(xv, split) v2 = Transpose<perm=[0,2,1,3]>(v1)
    k = Concat<axis=-2>(past_k, k2) v = Concat<axis=-2>(past_v, v2)
"""
# Keys and values once for each head of queries (repeat_kv of transformers).
REPEATED = """
    kn = Shape<start=2, end=3>(k) bn = Shape<start=0, end=1>(k)
    five = Concat<axis=0>(bn, two, two, kn, eight) four = Concat<axis=0>(bn, four_heads, kn, eight)
    ku = Unsqueeze(k, two) ke = Expand(ku, five) keys = Reshape(ke, four)
    vu = Unsqueeze(v, two) ve = Expand(vu, five) values = Reshape(ve, four)
"""
# A position sees those up to its own that the mask of the input does not hide.
VISIBLE = """
    tn = Shape<start=1, end=2>(x) first = Sub(kn, tn) zero = Sub(tn, tn)
    kn0 = Squeeze(kn) first0 = Squeeze(first) zero0 = Squeeze(zero) one0 = Squeeze(one)
    places = Range(zero0, kn0, one0) own = Range(first0, kn0, one0) rows = Unsqueeze(own, one)
    past = LessOrEqual(places, rows) given = Cast<to=9>(mask) there = Unsqueeze(given, middle) seen = And(past, there)
"""
SWAP = "kt = Transpose<perm=[0,1,3,2]>(keys)"
FLAT_SWAP = """
    flat = Concat<axis=0>(minus, kn, eight) k3 = Reshape(keys, flat) k4 = Transpose<perm=[0,2,1]>(k3)
    swapped = Concat<axis=0>(bn, four_heads, eight, kn) kt = Reshape(k4, swapped)
"""
NO_NAN = "nan = IsNaN(w0) w = Where(nan, nought, w0)"
FORMS = {
    "eager: added, least float": f"{SWAP} p = MatMul(q, kt) d = Mul(p, c) added = Where(seen, nought, least) "
    "a = Add(d, added) w = Softmax<axis=-1>(a)",
    "sdpa: factors on both, minus infinity, no NaN": f"{SWAP} qs = Mul(q, root) ks = Mul(kt, root) p = MatMul(qs, ks) "
    f"added = Where(seen, nought, infinite) a = Add(p, added) w0 = Softmax<axis=-1>(a) {NO_NAN}",
    "sdpa of dynamo: keys swapped in three axes": f"{FLAT_SWAP} qs = Mul(q, root) ks = Mul(kt, root) "
    f"p = MatMul(qs, ks) added = Where(seen, nought, least) a = Add(p, added) w0 = Softmax<axis=-1>(a) {NO_NAN}",
    "boolean: scores where seen": f"{SWAP} p = MatMul(q, kt) d = Div(p, inverse) a = Where(seen, d, least) "
    "w = Softmax<axis=-1>(a)",
    "masked_fill: scores where not hidden": f"{SWAP} p = MatMul(q, kt) d = Mul(c, p) hidden = Not(seen) "
    "a = Where(hidden, least, d) w = Softmax<axis=-1>(a)",
    "two masks": f"{SWAP} p = MatMul(q, kt) d = Mul(p, c) a1 = Add(d, bias) a = Where(seen, a1, least) "
    "w = Softmax<axis=-1>(a)",
}
JOINED = "o = MatMul(w, values) o1 = Transpose<perm=[0,2,1,3]>(o) y = Reshape(o1, joined)"
NUMBERS = {
    "c": DEPTH**-0.5, "root": DEPTH**-0.25, "inverse": DEPTH**0.5, "nought": 0.0, "infinite": -np.inf,
    "least": float(np.finfo(np.float32).min),
}  # fmt: skip
LISTS = {
    "split": [0, 0, -1, DEPTH], "joined": [0, 0, HEADS * DEPTH], "middle": [1, 2], "minus": [-1], "one": [1],
    "two": [2], "eight": [8], "four_heads": [HEADS],
}  # fmt: skip
ARRAYS: dict[str, np.ndarray] = {
    # Multiples of 1 / 4: projections of multiples of 1 / 8 are exact, in whatever order a product sums them up.
    "wq": np.rint(2 * graphs.weights(WIDTH, HEADS * DEPTH, seed=1)) / 4,
    "wk": np.rint(2 * graphs.weights(WIDTH, KEY_HEADS * DEPTH, seed=2)) / 4,
    "wv": np.rint(4 * graphs.weights(WIDTH, KEY_HEADS * DEPTH, seed=3)) / 4,
    "bias": graphs.weights(HEADS, 1, 1, seed=4),
    **{name: np.array(number, np.float32) for name, number in NUMBERS.items()},
    **{name: np.array(numbers) for name, numbers in LISTS.items()},
}


def decoder(form: str) -> ir.Model:
    """The layer with its scores in one of `FORMS`."""
    text = f"{HEADS_SPLIT} {REPEATED} {VISIBLE} {FORMS[form]} {JOINED}"
    words = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    read = {name: array for name, array in ARRAYS.items() if name in words}
    return graphs.graph(f"decoder ({ENDS}) => ({PRESENT}) {{{text}}}", read)


Call = Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]


def in_pieces(run: Call, x: np.ndarray, ends: Sequence[int], mask: np.ndarray) -> np.ndarray:
    """Outputs for all positions of x, [batch, positions, heads * depth], fed in pieces that end at ``ends``."""
    batch = x.shape[0]
    k = v = np.zeros((batch, KEY_HEADS, 0, DEPTH), np.float32)
    parts, start = [], 0
    for end in ends:
        y, k, v = run({"x": x[:, start:end], "past_k": k, "past_v": v, "mask": mask[:, :end]})
        parts.append(y)
        start = end
    assert k.shape == v.shape == (batch, KEY_HEADS, ends[-1], DEPTH)
    return np.concatenate(parts, 1)


def coded_in_pieces(run: Call, x: np.ndarray, ends: Sequence[int], mask: np.ndarray) -> np.ndarray:
    """As `in_pieces` for a cache of codes, as an app runs it: every present is the next past."""
    batch = x.shape[0]
    empty = {
        "": np.zeros((batch, KEY_HEADS, 0, DEPTH), np.int8),
        "_scales": np.zeros((batch, KEY_HEADS, 0, 1), np.float32),
    }
    past = {f"past_{one}{part}": array for one in "kv" for part, array in empty.items()}
    parts, start = [], 0
    for end in ends:
        y, k, v, k_scales, v_scales = run({"x": x[:, start:end], **past, "mask": mask[:, :end]})
        past = {"past_k": k, "past_v": v, "past_k_scales": k_scales, "past_v_scales": v_scales}
        parts.append(y)
        start = end
    assert k.dtype == v.dtype == np.int8
    assert k.shape == v.shape == (batch, KEY_HEADS, ends[-1], DEPTH)
    return np.concatenate(parts, 1)
