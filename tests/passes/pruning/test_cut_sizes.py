# SPDX-License-Identifier: Apache-2.0
"""Vectors of sizes as exporters write them: literals, copied and inferred dimensions, arithmetic on other shapes."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from cut_oracle import Examined, assert_oracle, examine, some_units
from graphs import graph, nodes, weights

from edgefold.passes.pruning.cut import cut
from edgefold.passes.pruning.groups import Group, Pruned

TOKENS = "g (float[N,T,12] x) => (float[N,T,K] y) {"
HEADS = {"w1": (12, 12), "w2": (12, 5)}
SPLIT = "h = MatMul(x, w1)"
JOIN = "t = Transpose<perm=[0,2,1,3]>(r) u = Transpose<perm=[0,2,1,3]>(t)"


@dataclasses.dataclass(frozen=True)
class Case:
    """A graph between ``x`` and ``y``, the shapes of its weights, and its constants."""

    name: str
    text: str
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, object] = dataclasses.field(default_factory=dict)
    head: str = TOKENS

    def model(self) -> ir.Model:
        arrays = {name: weights(*shape, seed=place) for place, (name, shape) in enumerate(self.shapes.items())}
        return graph(self.head + self.text + "}", arrays | {k: np.array(v) for k, v in self.constants.items()})


CASES = [
    Case(
        "literals, copied dimensions, an inferred one",
        f"{SPLIT} r = Reshape(h, split) {JOIN} j = Reshape(u, join) y = MatMul(j, w2)",
        HEADS,
        {"split": [0, 0, 3, 4], "join": [0, 0, 12]},
    ),
    Case(
        "the heads are inferred",
        f"{SPLIT} r = Reshape(h, split) {JOIN} j = Reshape(u, join) y = MatMul(j, w2)",
        HEADS,
        {"split": [0, 0, -1, 4], "join": [0, 0, -1]},
    ),
    Case(
        "sizes of batch and length from Shape, the rest literal",
        f"{SPLIT} s = Shape<end=2>(x) sp = Concat<axis=0>(s, three_four) r = Reshape(h, sp) {JOIN}"
        " jo = Concat<axis=0>(s, twelve) j = Reshape(u, jo) y = MatMul(j, w2)",
        HEADS,
        {"three_four": [3, 4], "twelve": [12]},
    ),
    Case(
        "channels from Shape, divided by the heads",
        f"{SPLIT} s = Shape(h) b = Gather(s, first) c = Gather(s, third) d = Div(c, three)"
        " sp = Concat<axis=0>(b, three, d) r = Reshape(h, sp) "
        f"{JOIN} m = Mul(three, d) jo = Concat<axis=0>(b, m) j = Reshape(u, jo) y = MatMul(j, w2)",
        HEADS,
        {"first": [0, 1], "third": [2], "three": [3]},
    ),
    Case(
        "batch and heads in one axis, by arithmetic",
        f"{SPLIT} s = Shape(x) n = Gather(s, zero) t = Gather(s, one) bh = Mul(n, three)"
        " sp = Concat<axis=0>(n, t, three, four) r = Reshape(h, sp) p = Transpose<perm=[0,2,1,3]>(r)"
        " si = Concat<axis=0>(bh, t, four) m = Reshape(p, si) l = Relu(m)"
        " so = Concat<axis=0>(n, three, t, four) q = Reshape(l, so) z = Transpose<perm=[0,2,1,3]>(q)"
        " jo = Concat<axis=0>(n, t, twelve) j = Reshape(z, jo) y = MatMul(j, w2)",
        HEADS,
        {"zero": [0], "one": [1], "three": [3], "four": [4], "twelve": [12]},
    ),
    Case(
        "one shape for two readers of different widths",
        f"{SPLIT} g = MatMul(x, w3) s = Shape(x) r = Reshape(h, s) q = Reshape(g, s) a = MatMul(r, w2)"
        " b = MatMul(q, w4) y = Add(a, b)",
        {**HEADS, "w3": (12, 12), "w4": (12, 5)},
    ),
    Case(
        "repeated heads: expanded, then merged",
        f"{SPLIT} r = Reshape(h, split) v = Unsqueeze(r, three) s = Shape<end=2>(x) e = Concat<axis=0>(s, rep)"
        " z = Expand(v, e) j = Reshape(z, join) y = MatMul(j, w2)",
        {"w1": (12, 12), "w2": (24, 5)},
        {"split": [0, 0, 3, 4], "three": [3], "rep": [3, 2, 4], "join": [0, 0, 24]},
    ),
    Case(
        "the shape of what is cut, read by what is not",
        f"{SPLIT} z = MatMul(x, w3) s = Shape(h) r = Reshape(z, s) e = Expand(r, s) o = Slice(e, from, s)"
        " y = MatMul(h, w2)",
        {**HEADS, "w3": (12, 12)},
        {"from": [0, 0, 0]},
        "g (float[N,T,12] x) => (float[N,T,K] y, float[N,T,L] o) {",
    ),
    Case(
        "a count of what is cut, added to the data",
        f"{SPLIT} s = Size(h) i = ArgMax<axis=2>(x) a = Add(i, s) c = CastLike(a, x) d = Add(x, c) y = MatMul(h, w2)",
        HEADS,
        head="g (float[N,T,12] x) => (float[N,T,K] y, float[N,T,12] d) {",
    ),
    Case(
        "tiled channels",
        f"{SPLIT} z = Tile(h, rep) y = MatMul(z, w2)",
        {"w1": (12, 12), "w2": (24, 5)},
        {"rep": [1, 1, 2]},
    ),
    Case(
        "one channel, tiled to as many as there are",
        f"{SPLIT} one = MatMul(x, w3) z = Tile(one, rep) m = Mul(h, z) y = MatMul(m, w2)",
        {**HEADS, "w3": (12, 1)},
        {"rep": [1, 1, 12]},
    ),
    Case(
        "a tensor of ones of as many channels as a literal says",
        f"{SPLIT} s = Shape<end=2>(x) e = Concat<axis=0>(s, twelve) z = ConstantOfShape<value = float[1] {{1.0}}>(e)"
        " a = Add(h, z) y = MatMul(a, w2)",
        HEADS,
        {"twelve": [12]},
    ),
    Case(
        "a tensor of zeros of the channels' size",
        f"{SPLIT} s = Shape(h) z = ConstantOfShape(s) a = Add(h, z) y = MatMul(a, w2)",
        HEADS,
    ),
    Case(
        "a mean by a sum and a count, over tokens and channels",
        f"{SPLIT} a = ReduceSum(h, axes) s = Size(h) t = Shape<end=1>(x) v = Div(s, t) c = CastLike(v, h)"
        " m = Div(a, c) y = Add(m, x)",
        {"w1": (12, 12)},
        {"axes": [1, 2]},
    ),
    Case(
        "resized pictures",
        "h = Conv(x, w1) s = Shape(h) b = Gather(s, batch) z = Concat<axis=0>(b, size) r = Resize(h, , , z)"
        " y = Conv(r, w2)",
        {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1)},
        {"batch": [0], "size": [8, 8, 8]},
        "g (float[N,3,4,4] x) => (float[N,K,H,W] y) {",
    ),
    Case(
        "a slice backwards",
        f"{SPLIT} z = Slice(h, minus_one, far, two, minus_one) y = MatMul(z, w2)",
        HEADS,
        {"minus_one": [-1], "far": [-(2**63)], "two": [2]},
    ),
    Case(
        "halves rotated against each other",
        f"{SPLIT} a = Slice(h, zero, six, two) b = Slice(h, six, last, two) n = Neg(b) c = Concat<axis=2>(n, a)"
        " d = Mul(h, w3) e = Mul(c, w4) f = Add(d, e) y = MatMul(f, w2)",
        {**HEADS, "w3": (12,), "w4": (12,)},
        {"zero": [0], "six": [6], "two": [2], "last": [2**63 - 1]},
    ),
    Case(
        "gathered channels, one twice, one from the end",
        f"{SPLIT} z = Gather<axis=2>(h, picked) y = MatMul(z, w2)",
        {"w1": (12, 12), "w2": (5, 5)},
        {"picked": [7, 2, 2, -1, 0]},
    ),
    Case(
        "channels of a flattened picture, by indices computed from the batch",
        "f = Reshape(x, flat) s = Shape<end=1>(x) n = Squeeze(s) r = Range(zero, n, one) t = Mul(r, twelve)"
        " o = Reshape(t, column) i = Add(o, offsets) z = Gather(f, i) y = MatMul(z, w2)",
        {"w2": (12, 5)},
        {"flat": [-1], "zero": 0, "one": 1, "twelve": 12, "column": [-1, 1], "offsets": [list(range(12))]},
        "g (float[N,12] x) => (float[N,K] y) {",
    ),
    Case(
        "cropped channels",
        f"{SPLIT} z = Pad(h, pads) y = MatMul(z, w2)",
        {"w1": (12, 12), "w2": (9, 5)},
        {"pads": [0, 0, -2, 0, 0, -1]},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sizes_follow_at_every_batch_and_length(case: Case) -> None:
    examined = examine(case.model())
    assert examined.dependencies.groups
    assert_oracle(examined, some_units(examined.dependencies, 0.5))


def heads_of(examined: Examined) -> Group:
    return next(group for group in examined.dependencies.groups if group.size == 3)


def first_head(examined: Examined) -> Pruned:
    return {heads_of(examined).name: np.array([0])}


def test_literals_are_rewritten_in_place_of_the_old_ones() -> None:
    examined = examine(CASES[0].model())
    small = assert_oracle(examined, first_head(examined))
    vectors = [node.inputs[1].const_value.numpy().tolist() for node in small.graph if node.op_type == "Reshape"]
    assert vectors == [[0, 0, 2, 4], [0, 0, 8]]


def test_what_is_inferred_is_left_to_be_inferred() -> None:
    examined = examine(CASES[1].model())
    small = assert_oracle(examined, first_head(examined))
    assert nodes(small) == nodes(examined.model)


def test_batch_times_heads_stays_dynamic() -> None:
    examined = examine(CASES[4].model())
    small = assert_oracle(examined, first_head(examined))
    merged = next(node for node in small.graph if node.outputs[0].name == "m")
    producer = merged.inputs[1].producer()
    assert producer is not None
    assert producer.op_type == "Concat"
    division = producer.inputs[0].producer()
    assert division is not None
    assert division.op_type == "Div"


def test_gathered_by_more_indices_than_the_probe_keeps() -> None:
    picked = np.arange(8192) % 12
    text = f"{SPLIT} t = Transpose<perm=[2,0,1]>(h) z = Gather(t, picked) y = ReduceSum(z, all)"
    case = Case("", text, {"w1": (12, 12)}, {"picked": picked, "all": [0]}, TOKENS.replace("[N,T,K]", "[L,N,T]"))
    examined = examine(case.model())
    assert_oracle(examined, some_units(examined.dependencies, 0.5))


def test_strided_channels_become_a_gather_where_no_stride_is_left() -> None:
    case = Case(
        "",
        f"{SPLIT} z = Slice(h, zero, last, two, two) a = MatMul(z, w2) b = MatMul(h, w3) y = Add(a, b)",
        {"w1": (12, 12), "w2": (6, 5), "w3": (12, 5)},
        {"zero": [0], "last": [2**63 - 1], "two": [2]},
    )
    examined = examine(case.model())
    even, odd = (group.name for group in examined.dependencies.groups)
    regular = assert_oracle(examined, {even: np.array([1]), odd: np.array([1])})
    assert "Gather" not in {node.op_type for node in regular.graph}
    irregular = assert_oracle(examined, {even: np.array([1]), odd: np.array([0, 3])})
    assert "Gather" in {node.op_type for node in irregular.graph}


def test_squeeze_of_all_axes_does_not_take_a_channel_axis_of_one() -> None:
    case = Case(
        "",
        "a = Conv(x, w1) q = Squeeze(a) y = Gemm(q, w2)",
        {"w1": (4, 3, 8, 8), "w2": (4, 5)},
        head="g (float[2,3,8,8] x) => (float[2,5] y) {",
    )
    examined = examine(case.model())
    (group,) = examined.dependencies.groups
    assert_oracle(examined, {group.name: np.array([0, 1, 3])})


def test_a_float_computed_from_a_size_of_channels_keeps_its_value() -> None:
    case = Case(
        "the scale of attention as the older exporter of PyTorch writes it",
        f"{SPLIT} r = Reshape(h, split) q = Transpose<perm=[0,2,1,3]>(r) k = Transpose<perm=[0,2,3,1]>(r) s = Shape(q)"
        " d = Gather(s, last) f = Cast<to=1>(d) e = Sqrt(f) i = Div(one, e) l = MatMul(q, k) m = Mul(l, i)"
        " p = Softmax(m) o = MatMul(p, q) t = Transpose<perm=[0,2,1,3]>(o) j = Reshape(t, join) y = MatMul(j, w2)",
        HEADS,
        {"split": [0, 0, 3, 4], "join": [0, 0, 12], "last": -1, "one": np.float32(1)},
    )
    examined = examine(case.model())
    dims = [group for group in examined.dependencies.groups if group.size == 4]
    assert dims
    small = assert_oracle(examined, {dims[0].name: np.array([0, 2])})
    assert "Sqrt" not in {node.op_type for node in small.graph}


def test_nothing_pruned_changes_nothing() -> None:
    examined = examine(CASES[4].model())
    untouched = examined.model.clone()
    assert cut(untouched, examined.dependencies, examined.trace, {}) == []
    assert ir.to_proto(untouched).SerializeToString() == ir.to_proto(examined.model).SerializeToString()


def test_pruned_twice() -> None:
    examined = examine(CASES[4].model())
    once = assert_oracle(examined, first_head(examined))
    again = examine(once)
    assert heads_of_two(again)
    assert_oracle(again, {heads_of_two(again)[0].name: np.array([1])})


def heads_of_two(examined: Examined) -> list[Group]:
    return [group for group in examined.dependencies.groups if group.size == 2]


def test_stored_shapes_follow_and_named_dimensions_stay() -> None:
    model = CASES[0].model()
    hidden = next(node.outputs[0] for node in model.graph if node.op_type == "MatMul")
    hidden.shape, hidden.type = ir.Shape(["N", "T", 12]), ir.TensorType(ir.DataType.FLOAT)
    examined = examine(model)
    small = assert_oracle(examined, first_head(examined))
    found = next(node.outputs[0] for node in small.graph if node.op_type == "MatMul")
    assert found.shape == ir.Shape(["N", "T", 8])
