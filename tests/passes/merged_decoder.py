# SPDX-License-Identifier: Apache-2.0
"""A decoder as Optimum merges two exports of it: an If on `use_cache_branch`, whose branches hold all layers.

The weights lie in the main graph, where both branches read them. Nodes and values of the branches have the same names,
which are those of the graph's outputs too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from graphs import Array, weights

WIDTH, HIDDEN, VOCABULARY, LAYERS = 64, 128, 96, 2
_PORTS = [f"{kind}_{layer}" for layer in range(LAYERS) for kind in ("key", "value")]
INITIALIZERS: dict[str, Array] = {
    "embedding": weights(VOCABULARY, WIDTH),
    "head": weights(WIDTH, VOCABULARY, seed=1) / 8,
    **{
        f"l{layer}_{name}": weights(*shape, seed=10 * layer + seed) / np.float32(shape[0] ** 0.5)
        for layer in range(LAYERS)
        for seed, (name, shape) in enumerate(
            {
                "q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "o": (WIDTH, WIDTH),
                "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH),
            }.items(), start=2
        )
    },
}  # fmt: skip


def _layer(number: int, past: bool) -> str:
    """From the value `x<number>` to the next."""
    there = (f"past_key_{number}, ", f"past_value_{number}, ") if past else ("", "")
    x, p = f"x{number}", f"l{number}_"
    return f"""
        [{p}q_node] {p}xq = MatMul({x}, {p}q) [{p}k_node] {p}xk = MatMul({x}, {p}k)
        [{p}v_node] {p}xv = MatMul({x}, {p}v)
        present_key_{number} = Concat<axis = 1>({there[0]}{p}xk)
        present_value_{number} = Concat<axis = 1>({there[1]}{p}xv)
        {p}turned = Transpose<perm = [0, 2, 1]>(present_key_{number})
        {p}scores = MatMul({p}xq, {p}turned) {p}scaled = Mul({p}scores, eighth)
        {p}shares = Softmax<axis = -1>({p}scaled) {p}seen = MatMul({p}shares, present_value_{number})
        [{p}o_node] {p}xo = MatMul({p}seen, {p}o) {p}sum = Add({x}, {p}xo)
        [{p}up_node] {p}wide = MatMul({p}sum, {p}up) {p}active = Relu({p}wide)
        [{p}down_node] {p}narrow = MatMul({p}active, {p}down) x{number + 1} = Add({p}sum, {p}narrow)
    """


def _branch(name: str, past: bool) -> str:
    outputs = ", ".join(["float[b,t,96] logits", *(f"float[b,n,64] present_{port}" for port in _PORTS)])
    layers = "".join(_layer(number, past) for number in range(LAYERS))
    return f"""{name} () => ({outputs}) {{
        [embed] x0 = Gather(embedding, input_ids) {layers} [head_node] logits = MatMul(x{LAYERS}, head)
    }}"""


def merged_decoder(opset: int = 21, initializers: Mapping[str, Array] | None = None) -> onnx.ModelProto:
    """The model; without use_cache_branch it reads no past."""
    pasts = ", ".join(f"float[b,p,64] past_{port}" for port in _PORTS)
    presents = ", ".join(f"float[b,n,64] present_{port}" for port in _PORTS)
    named = ", ".join(["logits", *(f"present_{port}" for port in _PORTS)])
    proto = onnx.parser.parse_model(f"""<ir_version: 7, opset_import: ["" : {opset}]>
    merged (int64[b,t] input_ids, {pasts}, bool[1] use_cache_branch) => (float[b,t,96] logits, {presents}) {{
        [choice] {named} = If(use_cache_branch) <
            then_branch = {_branch("with_past", True)}, else_branch = {_branch("no_past", False)}
        >
    }}""")
    proto.graph.node[0].name = "optimum::if"  # no identifier of the text form
    arrays = {**(initializers or INITIALIZERS), "eighth": np.array(0.125, np.float32)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return proto


def feeds(cached: bool, seed: int = 0) -> dict[str, Array]:
    """Token numbers, with a past of three positions or, where there is none, with one that nothing reads."""
    random = np.random.default_rng(seed)
    pasts = {f"past_{port}": weights(2, 3, WIDTH, seed=seed + place) for place, port in enumerate(_PORTS)}
    return {
        "input_ids": random.integers(0, VOCABULARY, (2, 1 if cached else 5)),
        **pasts,
        "use_cache_branch": np.array([cached]),
    }


def branched(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model of one input [batch, length] as an If on its length, with the whole model in both branches."""
    graph, helper = proto.graph, onnx.helper
    outputs = [one.name for one in graph.output]
    bodies = {name: helper.make_graph(list(graph.node), name, [], list(graph.output)) for name in ("then", "else")}
    nodes = [
        helper.make_node("Shape", [graph.input[0].name], ["its_length"], start=1, end=2),
        helper.make_node("Constant", [], ["single"], value_ints=[1]),
        helper.make_node("Equal", ["its_length", "single"], ["is_single"]),
        helper.make_node(
            "If", ["is_single"], outputs, "if", **{f"{name}_branch": body for name, body in bodies.items()}
        ),
    ]
    whole = helper.make_graph(nodes, "branched", list(graph.input), list(graph.output), list(graph.initializer))
    return helper.make_model(whole, opset_imports=proto.opset_import, ir_version=proto.ir_version)
