# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/prunability.md: every model of a folder, half of its multiply-accumulates pruned and checked.

    python docs/results/prunability.py ZOO_FOLDER WORK_FOLDER [SOURCE/NAME ...]

ZOO_FOLDER holds what models/zoo/build.py writes: SOURCE/NAME.onnx. Each model runs in a process of its own
(prunability_row.py) with a limit of time, so that one crash costs one row. Records are JSON files in WORK_FOLDER; a
record that is there is kept, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import edgefold
from edgefold.measuring.machine import this_machine
from edgefold.provenance import versions

HERE = Path(__file__).resolve().parent
SECONDS = 420
TOLERANCE = 1e-5
REACTION = 1e-3  # of the outputs, to the loss of half of the model: far above the tolerance
REACHED = 0.505  # of the multiply-accumulates: units are whole
NOTHING = ("random_forest", "gradient_boosting", "svm_rbf", "lightgbm", "xgboost", "pca_logistic")
"""Models without a hidden layer, which must come back as they were."""
REASONS = {
    "ondisk data_dtln_model_1": "the recurrent states are inputs and outputs, whose sizes stay",
    "ondisk data_dtln_model_2": "the recurrent states are inputs and outputs, whose sizes stay",
    "torch-legacy gmlp_s16": "all hidden channels are gated by ones that a LayerNormalization averages over",
    "torch-dynamo gmlp_s16": "all hidden channels are gated by ones that a LayerNormalization averages over",
}
"""Why models fall short of half; by source and name."""
LEAN = ("densenet121", "googlenet", "efficientnet_b0", "DenseNet121", "EfficientNetB0", "onnx_light_inception_v1")
"""Networks whose weights at half of the channels the project has a goal for: at most 35 % stay."""


def main(zoo: Path, work: Path, names: list[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    paths = sorted(zoo.glob("*/*.onnx"), key=lambda path: path.stat().st_size)
    for path in paths:
        name = f"{path.parent.name}/{path.stem}"
        record = work / f"{name.replace('/', '.')}.json"
        if record.exists() and name not in names:
            continue
        if not names or name in names:
            measure(path, record)
            found = json.loads(record.read_text())
            print(name, found["stage"], found.get("error", ""), flush=True)
    rows = [json.loads(path.read_text()) for path in sorted(work.glob("*.json"))]
    (HERE / "prunability.md").write_text(page(rows), encoding="utf-8")


def measure(path: Path, record: Path) -> None:
    """Runs one row in its own process; what ended it early is put into its record."""
    record.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / "prunability_row.py"), str(path), str(record)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        problem = "" if done.returncode == 0 else (lines[-1] if lines else f"exit {done.returncode}")
    except subprocess.TimeoutExpired:
        problem = f"took more than {SECONDS} s"
    found = json.loads(record.read_text()) if record.exists() else empty(path)
    if problem:
        record.write_text(json.dumps({**found, "error": problem[:400]}, indent=1))


def empty(path: Path) -> dict[str, Any]:
    return {"source": path.parent.name, "name": path.stem, "stage": "start"}


def verdict(row: dict[str, Any]) -> str:
    """In one word: what became of a model."""
    if row["stage"] != "done":
        return "refused" if refused(row) else "failed"
    if max(row[mode]["oracle"] for mode in ("half_of_the_macs", "half_of_the_channels")) > TOLERANCE:
        return "differs"
    if row["name"] in NOTHING:
        return "unchanged" if not row["half_of_the_macs"]["units"] else "changed"
    return "half" if row["half_of_the_macs"]["macs_kept"] <= REACHED else "short"


def deaf(row: dict[str, Any]) -> bool:
    cuts = [row[mode] for mode in ("half_of_the_macs", "half_of_the_channels")] if row["stage"] == "done" else []
    return any(cut["units"] and cut["changed"] < REACTION for cut in cuts)


def key(row: dict[str, Any]) -> str:
    return f"{row['source']} {row['name']}"


def refused(row: dict[str, Any]) -> bool:
    """Quantized models are refused with advice, before anything is changed."""
    return row.get("error", "").startswith("PreconditionError")


def page(rows: list[dict[str, Any]]) -> str:
    machine = this_machine()
    built_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join(
        [
            "# Prunability",
            "",
            "What `prune-channels` can take from models of many architectures and exporters. Weights are random",
            "(batch normalization statistics too) unless the name begins with `data_`; units are chosen by the L1",
            "norm of their weights, without data and without repair, the same share of every group, until half of",
            "the multiply-accumulates are gone; channels stay in multiples of eight where that suffices. Only exact",
            "groups are used: no normalization sees fewer channels.",
            "",
            "Checks of every row: onnx's checker and strict shape inference; the interface unchanged; runs in ONNX",
            "Runtime at two sizes of its dynamic axes; and the oracle: the cut model computes, to 1e-5 of the",
            "largest value, what the whole model computes with the pruned units zero wherever they are read, at its",
            "outputs and at its last three matrix products of unchanged shape.",
            "",
            "- `MACs`: share that stays. `weights`: share of the matrices' elements that stays.",
            "- `at half`: share of the matrices' elements that stays when every group loses half of its units.",
            "- `oracle`: largest relative difference over both cuts and all sizes.",
            "- `seconds`: processor time of preparing, analysis, choice and cut, beyond ONNX Runtime's own runs.",
            "- `faster`: median time before over after in ONNX Runtime, fp32, one thread, timed in turns. Other work",
            "  shared the machine, so that this is processor time too.",
            "- `heads`: attention layers whose heads can go, of all.",
            "- `in the way`: the operator that holds most channels, with their number; interfaces are left out.",
            "",
            "The dependency analysis of chains of residual blocks of 500, 1,000, 5,000, 20,000 and 50,000 nodes takes",
            "0.03, 0.03, 0.17, 0.72 and 1.84 processor seconds, in proportion to the nodes (AMD EPYC, 2026-11-22;",
            "`python docs/results/prunability_growth.py`). ONNX Runtime, which opens and runs the model before, takes",
            "18 seconds of 20,000 nodes and 105 of 50,000.",
            "",
            f"Machine: {machine.cpu}, {machine.cores} cores; {built_with}; seed 0. How to make the models:",
            "[models/zoo](../../models/zoo/README.md). Command: `python docs/results/prunability.py ZOO WORK`.",
            "",
            *summary(rows),
            "",
            *(line for source in dict.fromkeys(row["source"] for row in rows) for line in table(source, rows)),
            "",
        ]
    )


def summary(rows: list[dict[str, Any]]) -> list[str]:
    counted = Counter(verdict(row) for row in rows)
    prunable = [row for row in rows if row["name"] not in NOTHING and verdict(row) != "refused"]
    half = sum(verdict(row) == "half" for row in prunable)
    seconds = [spent(row) for row in rows if row["stage"] == "done"]
    speedups = sorted(row["half_of_the_macs"].get("speedup", 1.0) for row in rows if verdict(row) == "half")
    heads = [(row["attentions_with_heads"], row["attentions"]) for row in rows if row.get("attentions")]
    lean = [row for row in rows if row["name"] in LEAN and row["stage"] == "done"]
    return [
        f"**{len(rows)} rows from {len({row['source'] for row in rows})} sources.**",
        "",
        f"- {half} of {len(prunable)} prunable models reach half of the multiply-accumulates "
        f"({100 * half / max(len(prunable), 1):.1f} %).",
        f"- Invalid outputs: {counted['differs'] + counted['changed']}. Failed: {counted['failed']}. "
        f"Refused with advice: {counted['refused']}. Left as they were, as they should be: {counted['unchanged']}.",
        "- Rows that did not react to the cut at all, where the oracle says little: "
        + (", ".join(key(row) for row in rows if deaf(row)) or "none")
        + ".",
        f"- Seconds beyond ONNX Runtime's own runs: largest {max(seconds, default=0):.1f}, "
        f"median {median(sorted(seconds)):.2f}.",
        f"- Faster at half of the multiply-accumulates: median {median(speedups):.2f}.",
        f"- Attention heads can go in {sum(found > 0 for found, _ in heads)} of {len(heads)} models with attention.",
        *(
            f"- Short of half: {key(row)}: {REASONS.get(key(row), 'see its row')}."
            for row in rows
            if verdict(row) == "short"
        ),
        "- Weights that stay at half of the channels: "
        + ", ".join(
            f"{row['source']} {row['name']} {percent(row['half_of_the_channels']['weights_kept'])}" for row in lean
        )
        + ".",
    ]


def table(source: str, rows: list[dict[str, Any]]) -> list[str]:
    own = [row for row in rows if row["source"] == source]
    return [
        "",
        f"## {source}",
        "",
        "| model | nodes | result | MACs | weights | at half | oracle | seconds | faster | heads | in the way |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(table_row(row) for row in own),
    ]


def table_row(row: dict[str, Any]) -> str:
    start = f"| {row['name']} | {row.get('nodes', '')} | {verdict(row)} |"
    if row["stage"] != "done":
        return f"{start} | | | | | | | {row['stage']}: {row.get('error', '').replace('|', '/')[:160]} |"
    cut, half = row["half_of_the_macs"], row["half_of_the_channels"]
    held = next((barrier for barrier in row["barriers"] if not barrier.startswith("graph ")), "")
    heads = f"{row['attentions_with_heads']}/{row['attentions']}" if row["attentions"] else ""
    return (
        f"{start} {percent(cut['macs_kept'])} | {percent(cut['weights_kept'])} | {kept_at_half(row)} "
        f"| {max(cut['oracle'], half['oracle']):.0e} | {spent(row):.2f} | {cut.get('speedup', 1.0):.2f} | {heads} "
        f"| {held.replace('|', '/')} |"
    )


def spent(row: dict[str, Any]) -> float:
    """Seconds of one pruning, without the runs in ONNX Runtime."""
    cut = row["half_of_the_macs"]
    return float(row["prepare_seconds"] + row["analyse_seconds"] + cut["choose_seconds"] + cut["cut_seconds"])


def kept_at_half(row: dict[str, Any]) -> str:
    return percent(row["half_of_the_channels"]["weights_kept"])


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def median(values: list[float]) -> float:
    return values[len(values) // 2] if values else 0.0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__ or edgefold.__version__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
