# SPDX-License-Identifier: Apache-2.0
"""Fold-batchnorm: before and after as text, outputs within the bound of its docstring, and what must not fire."""

from __future__ import annotations

import re

import numpy as np
import pytest
from graphs import Array, graph, nodes, run, weights

from edgefold.passes import Context, SkipReason
from edgefold.passes.fold_batchnorm import FoldBatchnorm

EPSILON = 2.0**-24


def statistics(channels: int) -> dict[str, Array]:
    """Gamma, beta, mean and variance of a normalization."""
    names = ("g", "o", "m", "v")
    arrays = [weights(channels, seed=10 + i) for i in range(4)]
    arrays[3] = np.abs(arrays[3]) + np.float32(0.1)
    return dict(zip(names, arrays, strict=True))


IMAGE = "t (float[2, 6, 7, 7] x) => (float[2, C, A, B] y)"
ROWS = "t (float[5, 6] x) => (float[5, 8] y)"
NORM = "BatchNormalization<epsilon = 0.01>"
FIRES = {
    "conv": (
        f"{IMAGE} {{ [c] p = Conv(x, w, b)\n [n] y = {NORM}(p, g, o, m, v) }}",
        {"w": weights(8, 6, 3, 3), "b": weights(8, seed=5), **statistics(8)},
        ["y = Conv(x, w.folded, c.folded_bias)"],
        54,
    ),
    "grouped conv without bias": (
        f"{IMAGE} {{ [c] p = Conv<group = 2, pads = [1, 1, 1, 1]>(x, w)\n [n] y = {NORM}(p, g, o, m, v) }}",
        {"w": weights(8, 3, 3, 3), **statistics(8)},
        ["y = Conv(x, w.folded, c.folded_bias)"],
        27,
    ),
    "transposed conv with groups": (
        f"{IMAGE} {{ [c] p = ConvTranspose<group = 2>(x, w, b)\n [n] y = {NORM}(p, g, o, m, v) }}",
        {"w": weights(6, 4, 3, 3), "b": weights(8, seed=5), **statistics(8)},
        ["y = ConvTranspose(x, w.folded, c.folded_bias)"],
        27,
    ),
    "bias in an Add of its own": (
        f"{IMAGE} {{ [c] p = ConvTranspose(x, w)\n [a] q = Add(p, b)\n [n] y = {NORM}(q, g, o, m, v) }}",
        {"w": weights(6, 8, 3, 3), "b": weights(1, 8, 1, 1, seed=5), **statistics(8)},
        ["y = ConvTranspose(x, w.folded, c.folded_bias)"],
        54,
    ),
    "gemm": (
        f"{ROWS} {{ [c] p = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, b)\n [n] y = {NORM}(p, g, o, m, v) }}",
        {"w": weights(8, 6), "b": weights(8, seed=5), **statistics(8)},
        ["y = Gemm(x, w.folded, c.folded_bias)"],
        6,
    ),
    "matmul": (
        f"{ROWS} {{ [c] p = MatMul(x, w)\n [n] y = {NORM}(p, g, o, m, v) }}",
        {"w": weights(6, 8), **statistics(8)},
        ["c.folded_output = MatMul(x, w.folded)", "y = Add(c.folded_output, c.folded_bias)"],
        6,
    ),
    "before a conv": (
        f"{IMAGE} {{ [n] p = {NORM}(x, g, o, m, v)\n [c] y = Conv<group = 2>(p, w, b) }}",
        {"w": weights(8, 3, 3, 3), "b": weights(8, seed=5), **statistics(6)},
        ["y = Conv(x, w.folded, c.folded_bias)"],
        27,
    ),
    "before a gemm": (
        f"{ROWS} {{ [n] p = {NORM}(x, g, o, m, v)\n [c] y = Gemm(p, w) }}",
        {"w": weights(6, 8), **statistics(6)},
        ["y = Gemm(x, w.folded, c.folded_bias)"],
        6,
    ),
    "statistics in Constant nodes behind Identity": (
        f"{IMAGE} {{ k = Constant<value_floats = [1.0, 2.0, 0.5, 1.5, 1.0, 1.0, 1.0, 1.0]>()\n i = Identity(k)\n"
        f"[c] p = Conv(x, w)\n [n] y = {NORM}(p, i, o, m, v) }}",
        {"w": weights(8, 6, 3, 3), **{k: v for k, v in statistics(8).items() if k != "g"}},
        ["y = Conv(x, w.folded, c.folded_bias)"],
        54,
    ),
}


@pytest.mark.parametrize("case", FIRES)
def test_folds(case: str) -> None:
    text, initializers, expected, products = FIRES[case]
    declared = "<float[5, 8] p>" if case == "matmul" else ""
    before = graph(text.replace(" {", f" {declared} {{", 1), initializers)
    after = before.clone()
    notes = FoldBatchnorm().rewrite(after, Context())
    assert nodes(after) == expected
    assert [(edit.node, edit.what) for edit in notes.edits] == [("n", "folded into c")]
    assert all(node.metadata_props["edgefold.pass"] == "fold-batchnorm" for node in after.graph)

    x = weights(2, 6, 7, 7, seed=1) if "Conv" in text else weights(5, 6, seed=1)
    wanted, got = run(before, {"x": x})[0], run(after, {"x": x})[0]
    scale = np.abs(initializers.get("g", np.array(2.0)) / np.sqrt(initializers["v"] + 0.01)).max()
    offset = np.abs(initializers["o"]).max() + np.abs(initializers["m"]).max() * scale
    reach = products * np.abs(initializers["w"]).max() * (np.abs(x).max() * scale + offset) + offset
    reach += 2 * np.abs(initializers.get("b", np.zeros(1))).max() * scale
    assert np.abs(wanted - got).max() <= (2 * products + 6) * EPSILON * reach


SAME = "t (float[2, 6, 7, 7] x) => (float[2, 6, A, B] y)"
SMALLER = "t (float[2, 6, 7, 7] x) => (float[2, 6, 5, 5] y)"
NEAR_MISSES = {
    "no layer beside it": (
        f"{SAME} {{ p = Relu(x)\n [n] y = {NORM}(p, g, o, m, v) }}", {}, "n", SkipReason.NO_NEIGHBOUR),
    "product is a graph output": (
        "t (float[2, 6, 7, 7] x) => (float[2, 6, 5, 5] p, float[2, 6, 5, 5] y) "
        f"{{ [c] p = Conv(x, w)\n [n] y = {NORM}(p, g, o, m, v) }}",
        {"w": weights(6, 6, 3, 3)}, "n", SkipReason.GRAPH_OUTPUT),
    "product has another reader": (
        f"{SMALLER} {{ [c] p = Conv(x, w)\n [n] q = {NORM}(p, g, o, m, v)\n y = Add(p, q) }}",
        {"w": weights(6, 6, 3, 3)}, "n", SkipReason.NO_NEIGHBOUR),
    "weights shared by two layers": (
        "t (float[2, 6, 7, 7] x, float[2, 6, 7, 7] z) => (float[2, 6, 5, 5] y, float[2, 6, 5, 5] u) "
        f"{{ [c] p = Conv(x, w)\n [n] y = {NORM}(p, g, o, m, v)\n u = Conv(z, w) }}",
        {"w": weights(6, 6, 3, 3)}, "c", SkipReason.SHARED_WEIGHT),
    "statistics are inputs": (
        "t (float[2, 6, 7, 7] x, float[6] g) => (float[2, 6, 5, 5] y) "
        f"{{ [c] p = Conv(x, w)\n [n] y = {NORM}(p, g, o, m, v) }}",
        {"w": weights(6, 6, 3, 3), "g": None}, "n", SkipReason.NOT_CONSTANT),
    "an Add along another axis": (
        f"{SAME} {{ [c] p = Conv(x, w)\n q = Add(p, b)\n [n] y = {NORM}(q, g, o, m, v) }}",
        {"w": weights(6, 6, 2, 2), "b": weights(6)}, "n", SkipReason.NO_NEIGHBOUR),
    "weights are an input": (
        "t (float[2, 6, 7, 7] x, float[6, 6, 3, 3] w) => (float[2, 6, 5, 5] y) "
        f"{{ [c] p = Conv(x, w)\n [n] y = {NORM}(p, g, o, m, v) }}",
        {}, "c", SkipReason.NOT_CONSTANT),
    "padding before a conv is not normalized": (
        f"{SAME} {{ [n] p = {NORM}(x, g, o, m, v)\n [c] y = Conv<pads = [1, 1, 1, 1]>(p, w) }}",
        {"w": weights(6, 6, 3, 3)}, "n", SkipReason.ATTRIBUTE),
    "a result is not finite": (
        f"{SMALLER} {{ [c] p = Conv(x, w)\n [n] y = {NORM}(p, g, o, m, v) }}",
        {"w": weights(6, 6, 3, 3), "g": np.full(6, 3e38, np.float32)}, "c", SkipReason.NOT_FINITE),
}  # fmt: skip


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_left_alone(case: str) -> None:
    text, extra, node, reason = NEAR_MISSES[case]
    initializers = {name: array for name, array in {**statistics(6), **extra}.items() if array is not None}
    model = graph(text, initializers)
    before = nodes(model)
    notes = FoldBatchnorm().rewrite(model, Context())
    assert nodes(model) == before
    assert not notes.edits
    assert [(skip.node, skip.reason) for skip in notes.skips] == [(node, reason)]


SIAMESE = """t (float[2, 6, 7, 7] x, float[2, 6, 7, 7] z) => (float[2, 6, 5, 5] y, float[2, 6, 5, 5] u) {{
    [c] p = Conv(x, w)
    [n] y = {norm}(p, g, o, m, v)
    [d] q = Conv{attributes}(z, w)
    [k] u = {norm}(q, g{again}, o, m, v)
}}"""


def siamese(attributes: str = "", again: str = "") -> tuple[list[str], list[str], float, int]:
    """Nodes, skips, the largest difference and the number of weight tensors afterwards."""
    text = SIAMESE.format(norm=NORM, attributes=attributes, again=again)
    arrays = {"w": weights(6, 6, 3, 3) * 10, **statistics(6)}  # 1,296 bytes: equal small tensors are kept once anyway
    before = graph(text, arrays | ({"g2": arrays["g"] * 2} if again else {}))
    after = before.clone()
    notes = FoldBatchnorm().rewrite(after, Context())
    feeds = {"x": weights(2, 6, 7, 7, seed=1), "z": weights(2, 6, 7, 7, seed=2)}
    pairs = zip(run(before, feeds), run(after, feeds), strict=True)
    difference = max(float(np.abs(one - other).max() / np.abs(one).max()) for one, other in pairs)
    return (
        nodes(after),
        [skip.node for skip in notes.skips],
        difference,
        sum("w" in name for name in after.graph.initializers),
    )


def test_weights_shared_by_layers_normalized_alike_fold_and_stay_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefold.passes._initializers._COMPARED_BYTES", 256)  # these weights count as large
    after, skips, difference, stored = siamese()
    assert after == ["y = Conv(x, w.folded, c.folded_bias)", "u = Conv(z, w.folded, c.folded_bias)"]
    assert (skips, stored) == ([], 1)
    assert difference <= (2 * 54 + 6) * EPSILON * 10  # sums of 54 products cancel to a tenth of their terms


@pytest.mark.parametrize(("attributes", "again"), [("", "2"), ("<dilations = [1, 1]>", "")])
def test_weights_shared_by_layers_that_differ_stay(attributes: str, again: str) -> None:
    after, skips, difference, stored = siamese(attributes, again)
    assert (len(after), skips, difference, stored) == (4, ["c", "d"], 0.0, 1)


def test_a_chain_of_two_folds_into_one_layer() -> None:
    text = f"{IMAGE} {{ [c] p = Conv(x, w)\n [n] q = {NORM}(p, g, o, m, v)\n [k] y = {NORM}(q, g, o, m, v) }}"
    model = graph(text, {"w": weights(8, 6, 3, 3), **statistics(8)})
    notes = FoldBatchnorm().rewrite(model, Context())
    assert [node.op_type for node in model.graph] == ["Conv"]
    assert notes.stats["folded"] == 2


CONSTANTS = {"s": weights(1, 8, 1, 1, seed=6), "d": weights(8, 1, 1, seed=7)}


def read_in(text: str, arrays: dict[str, Array]) -> dict[str, Array]:
    """Those of the arrays that a graph reads."""
    return {name: array for name, array in arrays.items() if re.search(rf"[(,] ?{name}[,)]", text)}


WRITTEN_OUT = {
    "a normalization as Keras writes it": "[c] p = Conv(x, w)\n [s] q = Mul(p, s)\n [n] y = Add(d, q)",
    "a bias as Paddle writes it": "[c] p = Conv(x, w)\n r = Identity(s)\n [n] y = Add(p, r)",
    "behind a normalization": f"[c] p = Conv(x, w)\n q = {NORM}(p, g, o, m, v)\n [n] y = Mul(q, s)",
    "a transposed convolution": "[c] p = ConvTranspose<group = 2>(x, u)\n [n] y = Mul(p, s)",
}


@pytest.mark.parametrize("case", WRITTEN_OUT)
def test_constants_a_channel_fold(case: str) -> None:
    arrays = {"w": weights(8, 6, 3, 3), "u": weights(6, 4, 3, 3), **statistics(8), **CONSTANTS}
    before = graph(f"{IMAGE} {{ {WRITTEN_OUT[case]} }}", read_in(WRITTEN_OUT[case], arrays))
    after = before.clone()
    notes = FoldBatchnorm().rewrite(after, Context())
    assert [node.op_type for node in after.graph if node.op_type != "Identity"] == [before.graph[0].op_type]
    assert (notes.edits[-1].node, notes.edits[-1].what) == ("n", "folded into c")
    x = {"x": weights(2, 6, 7, 7, seed=1)}
    np.testing.assert_allclose(run(after, x)[0], run(before, x)[0], rtol=0, atol=2e-5)


TOKENS = "t (float[2, 3, 5, 6] x) => (float[A, B, C, D] y)"
LAYER_SCALES = {
    "behind a linear layer": ("[c] p = MatMul(x, w)\n q = Add(b, p)\n [n] y = Mul(q, s)", ["MatMul", "Add"]),
    "without a bias": ("[c] p = MatMul(x, w)\n [n] y = Mul(s, p)", ["MatMul"]),
    "behind a transposition": (
        "[c] p = MatMul(x, w)\n q = Add(b, p)\n r = Transpose<perm = [0, 3, 1, 2]>(q)\n [n] y = Mul(r, f)",
        ["MatMul", "Add", "Transpose"],
    ),
    "before a transposition": (
        "[c] p = MatMul(x, w)\n [n] q = Mul(p, s)\n y = Transpose<perm = [0, 3, 1, 2]>(q)",
        ["MatMul", "Transpose"],
    ),
}


@pytest.mark.parametrize("case", LAYER_SCALES)
def test_the_scale_of_a_residual_branch_folds(case: str) -> None:
    text, expected = LAYER_SCALES[case]
    arrays = {"w": weights(6, 8), "b": weights(8, seed=5), "s": weights(8, seed=6), "f": weights(8, 1, 1, seed=7)}
    before = graph(f"{TOKENS} {{ {text} }}", read_in(text, arrays))
    after = before.clone()
    notes = FoldBatchnorm().rewrite(after, Context())
    assert [node.op_type for node in after.graph] == expected
    assert [(edit.node, edit.what) for edit in notes.edits] == [("n", "folded into c")]
    assert set(after.graph.initializers) == {"w.folded"} | ({"c.folded_bias"} if "Add" in expected else set())
    x = {"x": weights(2, 3, 5, 6, seed=1)}
    np.testing.assert_allclose(run(after, x)[0], run(before, x)[0], rtol=0, atol=2e-5)


OTHER_CONSTANTS = {
    "a bias that no product follows": f"{TOKENS} {{ p = MatMul(x, l)\n y = Add(p, c) }}",
    "another axis, once transposed": f"{TOKENS} {{ p = MatMul(x, l)\n q = Transpose<perm = [0, 1, 3, 2]>(p)\n "
    "y = Mul(q, z) }",
    "more axes than the product has": "t (float[5, 6] x) => (float[1, 5, 8] y) { p = MatMul(x, l)\n y = Mul(p, t) }",
    "one for all": f"{IMAGE} {{ p = Conv(x, w)\n y = Mul(p, a) }}",
    "one for each column": f"{IMAGE} {{ p = Conv(x, w)\n y = Mul(p, k) }}",
    "more channels than the layer gives": f"{IMAGE} {{ p = Conv(x, e)\n y = Add(p, s) }}",
    "something reads what is between": f"{IMAGE} {{ p = Conv(x, w)\n q = Mul(p, s)\n y = Add(p, q) }}",
    "an output between": "t (float[2, 6, 7, 7] x) => (float[2, C, A, B] y, float[2, C, A, B] p) "
    "{ p = Conv(x, w)\n y = Mul(p, s) }",
}


@pytest.mark.parametrize("case", OTHER_CONSTANTS)
def test_other_constants_stay(case: str) -> None:
    arrays = {"w": weights(8, 6, 3, 3), "e": weights(1, 6, 3, 3), "a": weights(1), "k": weights(8, seed=3), **CONSTANTS}
    arrays |= {"l": weights(6, 8), "c": weights(8), "t": weights(1, 1, 8), "z": weights(5)}
    text = OTHER_CONSTANTS[case]
    model = graph(text, read_in(text, arrays))
    before = nodes(model)
    notes = FoldBatchnorm().rewrite(model, Context())
    assert nodes(model) == before
    assert not notes.edits


@pytest.mark.parametrize("choice", [False, True])
def test_in_branches(choice: bool) -> None:
    text = f"""t (float[2, 6, 7, 7] x, bool c) => (float[2, 8, A, B] y) {{
        [if] y = If(c) <
            then_branch = a () => (float[2, 8, A, B] p) {{ [c] k = Conv(x, w, b) [n] p = {NORM}(k, g, o, m, v) }},
            else_branch = b () => (float[2, 8, A, B] q) {{ [d] l = Conv(x, u) q = {NORM}(l, g, o, m, v) }}
        >
    }}"""
    arrays = {"w": weights(8, 6, 3, 3), "u": weights(8, 6, 3, 3, seed=1), "b": weights(8, seed=5), **statistics(8)}
    before = graph(text, arrays)
    after = before.clone()
    notes = FoldBatchnorm().rewrite(after, Context())
    assert len(notes.edits) == 2
    assert [node.op_type for node in after.graph.all_nodes()] == ["If", "Conv", "Conv"]
    feeds = {"x": weights(2, 6, 7, 7), "c": np.array(choice)}
    wanted, got = run(before, feeds)[0], run(after, feeds)[0]
    bound = (
        (2 * 54 + 6) * 2.0**-24 * 8 * np.abs(wanted).max()
    )  # of the docstring; the sum of magnitudes is below 8 times
    np.testing.assert_allclose(got, wanted, rtol=0, atol=bound)


def test_a_layer_outside_of_the_branch_that_normalizes_stays() -> None:
    text = f"""t (float[2, 6, 7, 7] x, bool c) => (float[2, 8, A, B] y) {{
        k = Conv(x, w)
        y = If(c) <then_branch = a () => (float[2, 8, A, B] p) {{ [n] p = {NORM}(k, g, o, m, v) }},
                   else_branch = b () => (float[2, 8, A, B] q) {{ z = Constant<value_float = 1.0>() q = Expand(z, s) }}>
    }}"""
    model = graph(text, {"w": weights(8, 6, 3, 3), "s": np.array([2, 8, 5, 5]), **statistics(8)})
    notes = FoldBatchnorm().rewrite(model, Context())
    assert [(skip.node, skip.reason) for skip in notes.skips] == [("n", SkipReason.NO_NEIGHBOUR)]
