# SPDX-License-Identifier: Apache-2.0
"""Sentences that a user should read first: goals missed, losses and their cure, and steps that did not help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgefold.passes import SkipReason
from edgefold.passes.quantization.activation_codes import STAYS_FLOAT
from edgefold.report import Figures

NAMED_NODES = 5
SHARE_OF_ERROR = 0.5  # nodes are named until they carry half of the error
SLOWER = 1.05
LARGER = 1.0
SLIGHT = 1e-3  # of the original's value; closeness to the original's outputs never stays quite what it was
UNEVEN = 1.4
CUTS = (
    "compress-experts", "fuse-layers", "low-rank", "merge-experts", "prune-channels", "prune-experts", "remove-blocks",
    "share-weights",
)  # fmt: skip
"""Passes that take parts of a model away, or make one of several: what they cost lies in no node that is left."""
OF_THE_MODEL = (SkipReason.NOT_APPLICABLE, SkipReason.NO_BLOCKS, SkipReason.NO_EXPERTS, SkipReason.BELOW_THRESHOLD)
"""Reasons of a pass that looked for its work and found none."""


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
    found = [_missed(name, goal, steps) for name, goal in goals.items() if not goal["met"]]
    if change is not None and _significantly_worse(change, lower_is_worse, before):
        found += [_cure(ranking)] if ranking and any(_coded(step) for step in steps) else []
        found += _cures_of_cuts(steps)
    if after.latency_ms and before.latency_ms and after.latency_ms > SLOWER * before.latency_ms:
        found.append(_slower(steps))
    found += _uneven(before, after, steps)
    if after.bytes > LARGER * before.bytes:
        found.append("The compressed file is larger than the original: little of it was compressed.")
    for step in steps:
        if (idle := _changed_nothing(step)) is not None:
            found.append(idle)
        if "finding" in step.get("stats", {}):
            found.append(str(step["stats"]["finding"]))
    return tuple(found)


def _coded(step: Mapping[str, Any]) -> bool:
    """Whether a step put codes in the place of floats, which `--exclude` would undo."""
    return bool(step["edits"]) and step["pass"] in ("quantize", "quantize-attention", "l1-normalization")


def _cures_of_cuts(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to do about steps whose damage no single node has."""
    cuts = [step["pass"] for step in steps if step["edits"] and step["pass"] in CUTS]
    if not cuts or any(step["edits"] and step["pass"] == "heal" for step in steps):  # noqa: S105 - no password
        return []
    names = " and ".join(dict.fromkeys(cuts))
    return [
        f"The metric got worse, and {names} took parts of the model away or joined them: ask for less (options: "
        f"`edgefold recipes show {cuts[-1]}`), give more calibration data, from which what stays is solved anew, or "
        "train it: `edgefold heal -m OUTPUT --teacher MODEL -d TASK`."
    ]


def _slower(steps: Sequence[Mapping[str, Any]]) -> str:
    asked = {step["pass"] for step in steps}
    ran = {step["pass"] for step in steps if step["edits"]}
    way_out = ""
    if any(_lacks_ranges(step) for step in steps):
        way_out = (
            "without calibration data its convolutions compute on floats, with a task file that has some "
            "(`-d TASK`) they compute on integers; "
        )
    if "quantize" in ran and not {"fuse-blocks", "fuse-experts"} & asked:
        way_out += "the recipe `fused` (`-c fused`) is made for speed, and "
    return (
        f"The compressed model is slower here than the original in ONNX Runtime; {way_out}"
        "`edgefold bench -m MODEL -m OUTPUT --against ort-int8` compares the alternatives."
    )


def _lacks_ranges(step: Mapping[str, Any]) -> bool:
    """Whether a step left the activations of convolutions float because there were no calibration data."""
    return any(skip["reason"] == SkipReason.NO_CALIBRATION and skip["detail"] == STAYS_FLOAT for skip in step["skips"])


def _uneven(before: Figures, after: Figures, steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """That pruning saved much less time than work, where numbers of channels are as they came."""
    pruned = [step for step in steps if step["pass"] == "prune-channels" and step["edits"]]  # noqa: S105 - no password
    if all(step["options"]["multiple"] > 1 for step in pruned):
        return []
    if not (before.macs and after.macs and before.latency_ms and after.latency_ms):
        return []
    work, time = before.macs / after.macs, before.latency_ms / after.latency_ms
    if work < UNEVEN * time:
        return []
    return [
        f"The multiply-accumulates fell to 1/{work:.2f}, the time to 1/{time:.2f}: ONNX Runtime is fast with numbers "
        "of channels that 8 or 16 divides; --set prune-channels.multiple=8 keeps to them, at some accuracy."
    ]


def _changed_nothing(step: Mapping[str, Any]) -> str | None:
    """A sentence on a step that was asked for more than cleaning up and left the model as it was."""
    if step["edits"] or step["pass"] not in (*CUTS, "quantize") or "finding" in step.get("stats", {}):
        return None
    for skip in step["skips"]:
        if skip["node"] == "model" and skip["reason"] in OF_THE_MODEL:
            return f"{step['pass']} changed nothing: {skip['detail'] or skip['reason']}."
    quantized = sum(skip["reason"] == SkipReason.ALREADY_QUANTIZED for skip in step["skips"])
    if quantized and step["pass"] == "quantize":  # noqa: S105 - no password
        layers = "1 layer is" if quantized == 1 else f"{quantized} layers are"
        return f"quantize changed nothing: {layers} quantized already; other widths need the float model."
    return f"{step['pass']} changed nothing; the list below says why for each node."


def _missed(name: str, goal: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> str:
    flag = "--" + name.replace("_", "-")
    said = f"Goal missed: {flag} {goal['goal']} allows less than the {goal['measured']:.4g} measured."
    if name != "max_drop" or not any(_by_count(step) for step in steps):
        return said
    return (
        f"{said} The search changes bits, not how many blocks remove-blocks takes: with its option max_drop in the "
        f"place of a number (max_drop: {goal['goal']}) it takes as many as the metric on calibration data bears."
    )


def _by_count(step: Mapping[str, Any]) -> bool:
    """Whether a step took blocks away without asking the metric."""
    return bool(step["pass"] == "remove-blocks" and step["edits"] and not step.get("options", {}).get("max_drop"))  # noqa: S105 - no password


def _significantly_worse(change: Mapping[str, Any], lower_is_worse: bool, before: Figures) -> bool:
    low, high = change["ci95"]
    noticed = before.metric is None or abs(change["value"]) > SLIGHT * abs(before.metric["value"])
    return noticed and bool(high < 0 if lower_is_worse else low > 0)


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
