# SPDX-License-Identifier: Apache-2.0
"""Every operator rule on single nodes: what it says may go must not be noticed, and what may go must be found."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from independence import Node, noticed, shrunk
from node_cases import CASES

from edgefold.passes.pruning.rules import RULES
from edgefold.passes.pruning.rules.control_flow import CONTROL_FLOW
from edgefold.passes.pruning.rules.elementwise import broadcasting, unary


def node(text: str, opset: int = 23, **inputs: Any) -> Node:
    """A node from its text; its inputs by name: a shape for random floats, or values."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.uniform(0.5, 1.5, given).astype(np.float32) if isinstance(given, tuple) else np.asarray(given)
        for name, given in inputs.items()
    }
    graph = onnx.parser.parse_graph(f"g () => () {{ {text} }}")
    for name, array in arrays.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in graph.node[0].output)
    opsets = [onnx.helper.make_opsetid("", opset)]
    return Node(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), arrays)


@pytest.mark.parametrize(("text", "inputs", "groups"), CASES, ids=[case[0] for case in CASES])
def test_what_may_go_is_found_and_not_noticed(text: str, inputs: dict[str, Any], groups: str) -> None:
    one = node(text, **inputs)
    assert " ".join(f"{group.name}={group.size}" for group in one.dependencies().groups) == groups
    assert list(noticed(one)) == []
    assert list(shrunk(one)) == []


@pytest.mark.parametrize(("text", "inputs", "groups"), CASES, ids=[case[0] for case in CASES])
def test_with_indices_from_data_too(text: str, inputs: dict[str, Any], groups: str) -> None:
    assert list(noticed(node(text, **inputs), varying=True)) == []


def test_every_rule_has_a_case() -> None:
    same = {name for name, rule in RULES.items() if rule in (unary, broadcasting)}
    tested = {node(text, **inputs).proto.graph.node[0].op_type for text, inputs, _ in CASES}
    assert set(RULES) - same - tested - set(CONTROL_FLOW) == set()  # nodes with bodies have tests of their own


def test_a_wrong_rule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "Softmax", unary)
    assert list(noticed(node("y = Softmax (x)", x=(2, 3))))
    monkeypatch.setitem(RULES, "Gather", lambda site: [site.axes(1)])
    assert list(noticed(node("y = Gather (x, i)", x=(3,), i=[2, 0])))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # they overflow and divide by zero, to test just that
def test_the_node_tests_of_onnx() -> None:
    """All single-node models of the standard's own tests, with their data."""
    from onnx.backend.test.case.node import collect_testcases

    wrong = []
    for case in collect_testcases(None):
        if len(case.model.graph.node) != 1 or "training_dropout" in case.name or not _is_plain(case):
            continue
        names = [value.name for value in case.model.graph.input]
        try:
            one = Node(case.model, dict(zip(names, map(np.asarray, case.data_sets[0][0]), strict=True)))
        except Exception:  # noqa: BLE001 - neither runtime has the operator
            continue
        wrong += [f"{case.name}: {what}" for varying in (False, True) for what in noticed(one, varying)]
    assert wrong == []


def _is_plain(case: Any) -> bool:
    return bool(case.data_sets) and all(isinstance(array, np.ndarray | np.generic) for array in case.data_sets[0][0])
