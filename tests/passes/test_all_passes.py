# SPDX-License-Identifier: Apache-2.0
"""What every pass of `PASSES` must keep to, on a model that gives each of them something to do."""

from __future__ import annotations

import functools
import hashlib

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from graphs import graph, run, weights

from edgefold.passes import PASSES, Context, FuseBlocks, FuseExperts, FuseLayers, Heal, Pass
from edgefold.passes.compress_experts import CompressExperts
from edgefold.passes.dispatch_experts import DispatchExperts
from edgefold.passes.low_rank import LowRank
from edgefold.passes.merge_experts import MergeExperts
from edgefold.passes.prune_channels import PruneChannels
from edgefold.passes.prune_experts import PruneExperts
from edgefold.passes.quantize import Quantize
from edgefold.passes.quantize_attention import QuantizeAttention
from edgefold.passes.remove_blocks import RemoveBlocks
from edgefold.probing import probe
from edgefold.session import compute

TEXT = """g (float[2, 16, 6, 6] x, int64[2] ids) => (float[2, 32] y) {
    [conv] c = Conv<pads = [1, 1, 1, 1]>(x, k)
    [norm] n = BatchNormalization(c, g, o, m, v)
    [relu] r = Relu(n)
    [wide] l = ConvTranspose<strides = [2, 2]>(r, larger)
    [pool] p = GlobalAveragePool(l)
    [flat] f = Flatten(p)
    [look] e = Gather(w, ids)
    [id] i = Identity(e)
    [sum] s = Add(f, i)
    [fc] q = MatMul(s, u)
    [bias] a = Add(q, b)
    [ln] h0 = LayerNormalization(a, g, o)
    [up0] p0 = MatMul(h0, up0)
    [act0] r0 = Relu(p0)
    [down0] d0 = MatMul(r0, down0)
    [sum0] h1 = Add(h0, d0)
    [up1] p1 = MatMul(h1, up1)
    [act1] r1 = Relu(p1)
    [down1] d1 = MatMul(r1, down1)
    [sum1] h2 = Add(h1, d1)
    [up2] p2 = MatMul(h2, up2)
    [act2] r2 = Relu(p2)
    [down2] d2 = MatMul(r2, down2)
    [sum2] h3 = Add(h2, d2)
    [route] z = MatMul(h3, router)
    [score] sc = Softmax<axis = -1>(z)
    [choose] tv, ti = TopK<axis = -1>(sc, two)
    [size] zs = Shape(sc)
    [none] zz = ConstantOfShape(zs)
    [gate] gates = ScatterElements<axis = -1>(zz, ti, tv)
    [ups] eu = Einsum<equation = "td,edf->tef">(h3, ups)
    [acts] er = Relu(eu)
    [downs] ed = Einsum<equation = "tef,efd,te->td">(er, downs, gates)
    [sum3] y = Add(h3, ed)
}"""

ATTENTION = """g (float[2, 16, 6, 6] x, int64[2] ids) => (float[2, 32] y) {
    [swap] t = Transpose<perm = [0, 1, 3, 2]>(x)
    [score] p = MatMul(x, t)
    [soft] w = Softmax(p)
    [mix] m = MatMul(w, x)
    [flat] f = Flatten(m)
    [fc] y = MatMul(f, u)
}"""


def model(kind: type[Pass]) -> ir.Model:
    """The model that a pass is tried on: with quantized layers or attention where it works on nothing else."""
    if kind is QuantizeAttention:
        made = graph(ATTENTION, {"u": weights(576, 32)})
        made.graph.opset_imports[""] = 21
        return made
    channel = {name: weights(32, seed=i) for i, name in enumerate("gom")}
    uneven = weights(32, 32) * np.exp2(np.linspace(-3, 3, 32, dtype=np.float32))[:, None]
    tables = {"k": weights(32, 16, 3, 3), "w": weights(90, 32), "u": uneven, "b": weights(32, seed=9)}
    tables |= {f"up{i}": weights(32, 48, seed=30 + i) for i in range(3)}
    tables |= {f"down{i}": weights(48, 32, seed=40 + i) / 200 for i in range(3)}
    tables |= {
        "larger": weights(32, 32, 2, 2),
        "router": weights(32, 4),
        "ups": weights(4, 32, 16),
        "downs": weights(4, 16, 32) / 200,
    }
    made = graph(TEXT, {**channel, "v": np.ones(32, np.float32), "two": np.array([2], np.int64), **tables})
    if kind is FuseBlocks:
        made.graph.opset_imports[""] = 21
        Quantize(first_last=4).rewrite(made, Context())
    if kind is FuseExperts:
        DispatchExperts().rewrite(made, CONTEXT)
        Quantize(activations=8, first_last=4).rewrite(made, Context())
    return made


def digest(value: ir.Model) -> str:
    return hashlib.sha256(ir.to_proto(value).SerializeToString(deterministic=True)).hexdigest()


FEEDS = {"x": weights(2, 16, 6, 6, seed=20), "ids": np.array([3, 89])}
CONTEXT = Context(probe=functools.partial(probe, feeds=FEEDS), compute=compute)
NEED_DATA = (FuseLayers, Heal, MergeExperts, PruneExperts, CompressExperts)  # their own tests give them some
ALONE = [kind for kind in PASSES if kind not in NEED_DATA]
every_pass = pytest.mark.parametrize("kind", ALONE, ids=lambda kind: str(kind.__struct_config__.tag))


@every_pass
def test_the_model_it_came_from_is_untouched(kind: type[Pass]) -> None:
    original = model(kind)
    before = digest(original)
    kind().rewrite(original.clone(), CONTEXT)
    assert digest(original) == before


@every_pass
def test_its_edits_say_whether_it_changed_anything(kind: type[Pass]) -> None:
    changed = model(kind)
    before = digest(changed)
    notes = kind().rewrite(changed, CONTEXT)
    assert notes.edits
    assert digest(changed) != before
    again = changed.clone()
    before = digest(again)
    if kind not in (
        PruneChannels,
        RemoveBlocks,
        LowRank,
    ):  # which take their share of what they are given, whenever it is
        assert kind().rewrite(again, Context()).edits == ()


@every_pass
def test_it_is_deterministic(kind: type[Pass]) -> None:
    results = []
    for _ in range(2):
        changed = model(kind)
        kind().rewrite(changed, CONTEXT)
        results.append(digest(changed))
    assert results[0] == results[1]


@every_pass
def test_inputs_outputs_and_new_nodes_are_in_order(kind: type[Pass]) -> None:
    original, changed = model(kind), model(kind)
    kind().rewrite(changed, CONTEXT)
    for old, new in (
        (original.graph.inputs, [value for value in changed.graph.inputs if not value.is_initializer()]),
        (original.graph.outputs, changed.graph.outputs),
    ):
        assert [(v.name, v.dtype, str(v.shape)) for v in old] == [(v.name, v.dtype, str(v.shape)) for v in new]
    for node in changed.clone().graph:
        if node.domain == "ai.edgefold":
            assert node.metadata_props["edgefold.pass"] in (str(kind.__struct_config__.tag), "quantize")
            assert node.metadata_props["edgefold.from"]
    wanted, got = run(original, FEEDS)[0], run(changed, FEEDS)[0]
    allowed = (
        1.0 if kind in (PruneChannels, LowRank) else 0.05
    )  # half of the model is gone, without data to refit the rest on
    assert np.square(wanted - got).sum() < allowed * np.square(wanted).sum()


@every_pass
def test_it_is_a_frozen_value_that_refuses_unknown_options(kind: type[Pass]) -> None:
    options = kind()
    assert msgspec.convert(msgspec.to_builtins(options), kind) == options
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({**msgspec.to_builtins(options), "no_such_option": 1}, kind)
    assert hash(options) == hash(kind())
