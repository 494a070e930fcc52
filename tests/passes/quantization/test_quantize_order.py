# SPDX-License-Identifier: Apache-2.0
"""Which matrices are rounded together, which wait for others, and what their layers should give."""

from __future__ import annotations

import onnx_ir as ir
from graphs import Array, graph, weights

from edgefold.passes._layer_inputs import Targets
from edgefold.passes._weighted_nodes import WeightedNode, weighted_node
from edgefold.passes.quantization.order import Stage, in_stages
from edgefold.passes.quantization.shared_weights import WeightGroup, group_by_content

SHAPE = (8, 64)
HEADER = "g (float[N, 64] x) => (float[N, 64] y)"


def stages(body: str, matrices: dict[str, Array], shapes: dict[str, tuple[int, ...]] | None = None) -> list[Stage]:
    model = graph(HEADER + " {" + body + "}", matrices)
    sites = [site for node in model.graph if isinstance(site := weighted_node(node), WeightedNode)]
    groups, _ = group_by_content(sites, {s.node: 4 for s in sites}, {s.node: "shift" for s in sites})
    known = {str(value.name): SHAPE for node in model.graph for value in node.outputs} if shapes is None else shapes
    return in_stages(model.graph, groups, known)


def names(found: list[Stage]) -> list[list[str]]:
    return [[site.label for group in stage.groups for site in group.sites] for stage in found]


def target(found: list[Stage], name: str) -> Targets:
    targets: dict[str, Targets] = {str(node.name): one for stage in found for node, one in stage.targets.items()}
    return targets[name]


def three() -> dict[str, Array]:
    return {f"w{i}": weights(64, 64, seed=i) for i in range(3)}


def test_a_layer_waits_for_those_before_it() -> None:
    found = stages(
        "[a] p = MatMul(x, w0)\n q = Relu(p)\n [b] y = MatMul(q, w1)",
        {"w0": weights(64, 64), "w1": weights(64, 64, seed=1)},
    )
    assert names(found) == [["a"], ["b"]]


def test_layers_side_by_side_are_rounded_together() -> None:
    found = stages("[a] p = MatMul(x, w0)\n [b] q = MatMul(x, w1)\n r = Mul(p, q)\n [c] y = MatMul(r, w2)", three())
    assert names(found) == [["a", "b"], ["c"]]


def test_a_residual_branch_makes_up_for_what_the_stream_has_lost() -> None:
    body = "[a] p = MatMul(x, w0)\n q = Relu(p)\n [b] r = MatMul(q, w1)\n y = Add(p, r)"
    found = stages(body, {"w0": weights(64, 64), "w1": weights(64, 64, seed=1)})
    assert target(found, "b") == Targets("y", -1, 1, less="p")
    assert target(found, "a") == Targets("p", -1, 1)


def test_two_branches_wait_for_each_other() -> None:
    found = stages(
        "[a] p = MatMul(x, w0)\n [b] q = MatMul(x, w1)\n y = Add(p, q)",
        {"w0": weights(64, 64), "w1": weights(64, 64, seed=1)},
    )
    assert names(found) == [["a"], ["b"]]
    assert target(found, "b") == Targets("y", -1, 1, less="p")


def test_a_stream_that_has_not_changed_is_no_reason() -> None:
    found = stages("[a] p = MatMul(x, w0)\n y = Add(x, p)", {"w0": weights(64, 64)})
    assert target(found, "a") == Targets("p", -1, 1)


def test_a_sum_of_another_shape_or_an_unknown_one_is_no_target() -> None:
    body = "[a] p = MatMul(x, w0)\n q = Relu(p)\n [b] r = MatMul(q, w1)\n y = Add(p, r)"
    matrices = {"w0": weights(64, 64), "w1": weights(64, 64, seed=1)}
    assert target(stages(body, matrices, {}), "b") == Targets("r", -1, 1)
    assert target(stages(body, matrices, {"r": (1, 64), "y": SHAPE}), "b") == Targets("r", -1, 1)


def test_a_shared_matrix_is_rounded_where_it_first_appears() -> None:
    body = "[a] p = MatMul(x, w0)\n q = Relu(p)\n [b] r = MatMul(q, w1)\n [c] y = MatMul(r, w0)"
    found = stages(body, {"w0": weights(64, 64), "w1": weights(64, 64, seed=1)})
    assert names(found) == [["a", "c"], ["b"]]


def test_every_group_is_in_one_stage() -> None:
    found = stages("[a] p = MatMul(x, w0)\n [b] q = MatMul(p, w1)\n [c] y = MatMul(q, w2)", three())
    groups: list[WeightGroup] = [group for stage in found for group in stage.groups]
    assert len(groups) == 3
    assert all(isinstance(node, ir.Node) for stage in found for node in stage.targets)
