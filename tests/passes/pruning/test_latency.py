# SPDX-License-Identifier: Apache-2.0
"""Latency budgets: the curves that operators make of a table, and the table itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from graphs import graph, weights

from edgefold.errors import UsageError
from edgefold.measuring.operator_times import ENVIRONMENT, operator_times, table_path
from edgefold.passes.pruning.analysis import Analysis
from edgefold.passes.pruning.groups import Dependencies
from edgefold.passes.pruning.latency import Latency, Operation, Times, latency
from edgefold.probing import probe

TEXT = """g (float[2, 20] x) => (float[2, 4] y) {
    [wide] h = MatMul(x, w)
    [relu] r = Relu(h)
    [narrow] y = MatMul(r, v)
}"""


def made(times: Times) -> tuple[Latency, Dependencies]:
    known = Analysis.of(graph(TEXT, {"w": weights(20, 40), "v": weights(40, 4)}), probe)
    return latency(known, known.dependencies.groups, times), known.dependencies


def work(operations: Sequence[Operation]) -> Mapping[Operation, float]:
    """A machine whose time is its arithmetic, and a thousand for every call."""
    return {
        one: 1000.0 + math.prod(one.inputs[0] or ()) * ((one.inputs[1] or (1, 1))[1] if len(one.inputs) > 1 else 1)
        for one in operations
    }


def test_time_follows_the_width_and_calls_cost() -> None:
    cost, dependencies = made(work)
    assert cost({}) == 3000 + 2 * 20 * 40 + 2 * 40 + 2 * 40 * 4
    half = dependencies.kept({dependencies.groups[0].name: np.arange(20)})
    assert cost(half) == pytest.approx(3000 + (2 * 20 * 40 + 2 * 40 + 2 * 40 * 4) / 2)


def test_a_narrower_operator_never_counts_as_slower() -> None:
    def odd(operations: Sequence[Operation]) -> Mapping[Operation, float]:
        return {one: 1 / math.prod(one.inputs[0] or ()) for one in operations}

    cost, dependencies = made(odd)
    half = dependencies.kept({dependencies.groups[0].name: np.arange(20)})
    assert cost(half) <= cost({})


def test_an_operator_that_cannot_be_measured_is_left_out() -> None:
    cost, _ = made(lambda operations: {one: 1.0 for one in operations if one.op_type != "Relu"})
    assert cost({}) == 2.0


CONV = Operation(
    "Conv", 21, (("group", 1), ("pads", (1, 1, 1, 1))), ((1, 3, 8, 8), (4, 3, 3, 3), None), (False, True, False), 1
)


def test_a_table_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "new" / "times.json"))
    first = operator_times([CONV])
    assert first[CONV] >= 0
    stamp = table_path().stat().st_mtime_ns
    assert operator_times([CONV]) == first
    assert table_path().stat().st_mtime_ns == stamp
    wrong = Operation("Conv", 21, (), ((1, 3, 8, 8), (4, 5, 3, 3)), (False, True), 1)
    assert operator_times([wrong]) == {}


def test_a_file_that_is_no_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "times.json"
    monkeypatch.setenv(ENVIRONMENT, str(path))
    for text in ("no json", '["a list"]', '{"a": "b"}'):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"times\.json"):
            operator_times([CONV])
