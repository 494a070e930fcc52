# SPDX-License-Identifier: Apache-2.0
"""What a compression did, as JSON for programs and as a text that a person likes to read."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

LISTED_SKIPS = 12  # more of them are in report.json
LISTED_LAYERS = 3


@dataclasses.dataclass(frozen=True)
class Figures:
    """One side of the before/after table.

    Attributes:
        bytes: of the file with its external data.
        weights: count of weight elements.
        macs: multiply-accumulates per sample at the task's shapes, or None when shapes are unknown.
        metric: value on the evaluation set, with its name and 95 % interval, or None without a task.
        latency_ms: median of one run of the first batch, or None when it was not measured.
        bits_per_weight: in MatMul, Gemm and Conv weights, counting codes, shifts, scales, tables and padding.
    """

    bytes: int
    weights: int
    macs: int | None = None
    metric: Mapping[str, Any] | None = None
    latency_ms: float | None = None
    bits_per_weight: float | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Report:
    """All that is known of one run of ``edgefold compress``.

    Attributes:
        status: "done", "goal missed" or "dry run".
        steps: one JSON record a step, as in report.json.
        change: paired difference of the metric with its 95 % interval, after minus before.
        portability: agreement of stock ONNX Runtime and the library on the written file.
        ranking: nodes by the error that each adds, largest first, as (node, noise-to-signal).
        findings: sentences worth the user's attention, most important first.
    """

    status: str
    model: str
    output: str
    before: Figures
    after: Figures
    steps: Sequence[Mapping[str, Any]]
    change: Mapping[str, Any] | None = None
    portability: Mapping[str, Any] | None = None
    goals: Mapping[str, Any] | None = None
    ranking: Sequence[tuple[str, float]] = ()
    findings: Sequence[str] = ()
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        plain = dataclasses.asdict(self)
        plain["ranking"] = [{"node": node, "noise_to_signal": error} for node, error in self.ranking]
        return plain

    def to_text(self) -> str:
        """The summary printed at the end of a run: table, findings, then what was skipped and why."""
        if self.status == "dry run":
            return self._dry_text()
        lines = [f"{self.model} -> {self.output}", "", *_table(self.before, self.after, self.environment)]
        if self.change:
            low, high = self.change["ci95"]
            lines.append(
                f"\nThe metric changed by {self.change['value']:+.4g} (95 % interval {low:+.4g} to {high:+.4g})."
            )
        if self.portability:
            lines.append(_portability_text(self.portability))
        lines += [f"\n{finding}" for finding in self.findings]
        lines += _widths_text(self.steps)
        lines += _skips_text(self.steps)
        return "\n".join(lines)

    def _dry_text(self) -> str:
        lines = [
            f"Dry run: {self.model} -> {self.output}: model, recipe, task and output fit each other; no step was tried "
            "and no output written. The steps would be:"
        ]
        for step in self.steps:
            options = ", ".join(
                f"{key.replace('_', '-')} {value}" for key, value in step["options"].items() if key != "pass"
            )
            lines.append(f"  {step['pass']}" + (f": {options}" if options else ""))
            lines += [f"    skipped, if the model comes to it as it is: {skip['detail']}" for skip in step["skips"]]
        return "\n".join([*lines, *self.findings])


def _table(before: Figures, after: Figures, environment: Mapping[str, Any]) -> list[str]:
    rows = [("", "before", "after", "")]
    rows.append(("size", _bytes(before.bytes), _bytes(after.bytes), _times(before.bytes, after.bytes, "smaller")))
    rows.append(("weights", _count(before.weights), _count(after.weights), ""))
    if before.bits_per_weight and after.bits_per_weight:
        rows.append(("bits a weight", f"{before.bits_per_weight:.2f}", f"{after.bits_per_weight:.2f}", ""))
    if before.macs and after.macs:
        rows.append(("MACs a sample", _count(before.macs), _count(after.macs), ""))
    if before.metric and after.metric:
        rows.append((str(before.metric["metric"]), _metric(before.metric), _metric(after.metric), ""))
    if before.latency_ms and after.latency_ms:
        note = f"{_times(before.latency_ms, after.latency_ms, 'faster')} ({environment.get('latency', '')})"
        rows.append(("latency", f"{before.latency_ms:.3g} ms", f"{after.latency_ms:.3g} ms", note))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"  {name:<{widths[0]}}  {old:>{widths[1]}}  {new:>{widths[2]}}  {note}".rstrip()
        for name, old, new, note in rows
    ]


def _portability_text(portability: Mapping[str, Any]) -> str:
    reordered = portability["reordered"]
    turned = f"; in {reordered}, ONNX Runtime's optimizations turn codes near rounding ties" if reordered else ""
    unreached = portability["unreached"]
    left = f" {_number(unreached, 'node')} in bodies that did not run were not compared." if unreached else ""
    return (
        f"Stock ONNX Runtime and the EdgeFold library agree on {_number(portability['nodes'], 'node')} "
        f"(largest difference {portability['worst']:.1e}{turned}).{left}"
    )


def _widths_text(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the bits of mixed precision went: how many layers and weights have each width."""
    rows = [row for step in steps for row in step.get("table", ()) if "bits" in row]
    if not rows:
        return []
    lines = ["\nBits a weight, by what each layer alone does to the outputs (report.json has the table):"]
    for bits in sorted({row["bits"] for row in rows}):
        chosen = [row for row in rows if row["bits"] == bits]
        nodes = ", ".join(row["nodes"][0] for row in chosen[:LISTED_LAYERS])
        more = f" and {len(chosen) - LISTED_LAYERS} more" if len(chosen) > LISTED_LAYERS else ""
        lines.append(f"  {bits} bits: {_count(sum(row['weights'] for row in chosen))} weights: {nodes}{more}")
    return lines


def _skips_text(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    skips = _lasting_skips(steps)
    if not skips:
        return ["\nNothing was skipped."]
    counts = Counter((name, str(skip["reason"])) for name, skip in skips)
    lines = ["\nLeft alone or treated with less than asked:"]
    for (name, reason), _ in counts.most_common():
        alike = [skip for step, skip in skips if step == name and str(skip["reason"]) == reason]
        nodes = [skip for skip in alike if skip["node"] != "model"]
        lines += [f"  {name}: {reason}{_detail(skip)}" for skip in alike if skip["node"] == "model"]
        if nodes:
            lines.append(f"  {name}: {reason}: {_number(len(nodes), 'node')}")
        lines += [f"    {skip['node']}{_detail(skip)}" for skip in nodes[:LISTED_SKIPS]]
        if len(nodes) > LISTED_SKIPS:
            lines.append(f"    and {len(nodes) - LISTED_SKIPS} more in report.json")
    return lines


def _detail(skip: Mapping[str, Any]) -> str:
    return f" ({skip['detail']})" if skip["detail"] else ""


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _lasting_skips(steps: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Skips with their passes, but for those of nodes that a later step replaced after all."""
    lasting: list[tuple[str, Mapping[str, Any]]] = []
    for step in steps:
        replaced = {node for edit in step.get("edited", ()) for node in edit.get("replaced", ())}
        lasting = [(name, skip) for name, skip in lasting if skip["node"] not in replaced]
        lasting += [(step["pass"], skip) for skip in step["skips"]]
    return lasting


def _metric(metric: Mapping[str, Any]) -> str:
    return f"{metric['value']:.4f}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"
        count /= 1000
    raise AssertionError


def _count(number: float) -> str:
    for unit in ("", " k", " M", " G"):
        if number < 1000 or unit == " G":
            return f"{number:.4g}{unit}"
        number /= 1000
    raise AssertionError


def _times(before: float, after: float, word: str) -> str:
    ratio = before / max(after, 1e-12)
    if abs(ratio - 1) < 0.005:
        return "the same"
    if ratio >= 1:
        return f"{ratio:.2f}x {word}"
    opposite = {"smaller": "larger", "faster": "slower"}[word]
    return f"{1 / ratio:.2f}x {opposite}"
