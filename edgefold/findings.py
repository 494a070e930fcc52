# SPDX-License-Identifier: Apache-2.0
"""Sentences that a user should read first: goals missed, losses and their cure, and steps that did not help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgefold.report import Figures

NAMED_NODES = 5
SHARE_OF_ERROR = 0.5  # nodes are named until they carry half of the error
SLOWER = 1.05
LARGER = 1.0


def findings_of(
    before: Figures,
    after: Figures,
    steps: Sequence[Mapping[str, Any]],
    change: Mapping[str, Any] | None,
    lower_is_worse: bool,
    goals: Mapping[str, Mapping[str, Any]],
    ranking: Sequence[tuple[str, float]],
) -> tuple[str, ...]:
    """What is worth saying about a finished run, most important first.

    Args:
        before: figures of the original.
        after: figures of the written file.
        steps: records as in report.json.
        change: paired difference of the metric, after minus before.
        lower_is_worse: direction of the metric.
        goals: goal, measured value and verdict by name.
        ranking: nodes by the error that each adds, largest first.
    """
    found = [_missed(name, goal) for name, goal in goals.items() if not goal["met"]]
    if change is not None and _significantly_worse(change, lower_is_worse) and ranking:
        found.append(_cure(ranking))
    if after.latency_ms and before.latency_ms and after.latency_ms > SLOWER * before.latency_ms:
        found.append(
            "The compressed model is slower here than the original in ONNX Runtime; "
            "`edgefold bench -m MODEL -m OUTPUT --against ort-int8` compares the alternatives."
        )
    if after.bytes > LARGER * before.bytes:
        found.append("The compressed file is larger than the original: the model has little to compress.")
    for step in steps:
        if step["pass"] == "quantize" and not step["edits"]:  # noqa: S105 - a pass, not a password
            found.append("quantize changed nothing; the list below says why for each node.")
        if "finding" in step.get("stats", {}):
            found.append(str(step["stats"]["finding"]))
    return tuple(found)


def _missed(name: str, goal: Mapping[str, Any]) -> str:
    flag = "--" + name.replace("_", "-")
    return f"Goal missed: {flag} {goal['goal']} allows less than the {goal['measured']:.4g} measured."


def _significantly_worse(change: Mapping[str, Any], lower_is_worse: bool) -> bool:
    low, high = change["ci95"]
    return bool(high < 0 if lower_is_worse else low > 0)


def _cure(ranking: Sequence[tuple[str, float]]) -> str:
    total = sum(error for _, error in ranking)
    named: list[str] = []
    carried = 0.0
    for node, error in ranking[:NAMED_NODES]:
        named.append(node)
        carried += error
        if carried >= SHARE_OF_ERROR * total:
            break
    flags = " ".join(f"--exclude '{node}'" for node in named)
    share = 100 * carried / max(total, 1e-30)
    return (
        f"The metric got worse. {len(named)} of {len(ranking)} nodes add {share:.0f} % of the error; "
        f"leaving them as they are would help most: {flags}"
    )
