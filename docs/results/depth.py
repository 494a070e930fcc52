# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/depth.md: what can be done about depth, side by side, with the cheap controls.

    python docs/results/depth.py DATA_FOLDER WORK_FOLDER [PATTERN ...]
    python docs/results/depth.py DATA_FOLDER WORK_FOLDER latency

A row is kept as a JSON file and a model in WORK_FOLDER, so that an interrupted run goes on where it stopped, and a row
that fails does not keep the others from being made. The page is made of the rows in depth.jsonl beside it, where each
takes the place of an older one. Patterns choose rows by name, such as ``"minilm *seed0"``, and what they start from;
without any, what depth.jsonl lacks is made. Processes may work on different models at a time. The second form is for a
quiet moment: it times all methods of a model whose files are in WORK_FOLDER in one interleaved run.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depth_measure import latencies, measured, model_file
from depth_methods import SEEDS, SUBJECTS, Row, rows
from rows import commit_rows, keep, kept_rows, made_from, made_now, makers, mean

PAGE = Path(__file__).with_name("depth.md")
KEPT = PAGE.with_suffix(".jsonl")
LATENCIES = PAGE.with_name("depth_latencies.jsonl")
NOT_COMMITTED = ("notes", "model")
Result = Mapping[str, Any]
INTRODUCTION = (
    "Methods on the same models, from the same calibration data, healed without labels; the recipes at the end of the",
    "page tell for how many steps. Bytes are those of all tensors that the blocks read, over those of the original's",
    "blocks in float32; latency is the median of one sample on one thread in ONNX Runtime over the original's, in one",
    "interleaved run (below 1 is faster). `change` is against the original on the evaluation set, with the paired",
    "95 % interval of seed 0, or with the range over seeds where there are several. Everything is chosen, fitted and",
    "stopped on calibration data.",
    "Processor seconds are those of the row's own steps; what it starts from is in the row of that name.",
    "",
    "Controls (`control: ...`): the last third of the blocks dropped, and of what remains only the head and the last",
    "three blocks tuned (arXiv 2411.15558); a random choice of blocks, another for each seed; blocks shared by their",
    "mean. Independent low rank is what sharing has to beat at the same bytes.",
)
COMMAND = (
    "Command: `python docs/results/depth.py DATA WORK`; for one row its model, method and seed follow, as in"
    ' `"minilm third removed, healed seed0"`.'
)
READING = (
    "One seed where no range stands; rows without an entry were not run. Removal with the refit that follows it needs",
    "no training on these transformers: two of six blocks cost MiniLM 1.8 % of its correlation and the ViT half a",
    "point, and a short healing on the task's data gains nothing on top; healed on other texts, of which more below,",
    "MiniLM loses 0.5 %, the mean of three seeds, and 0.6 with 4 bits (1/11.24 of the bytes). On MiniLM it is the",
    "refit that does it, not the choice: two blocks taken at random and refitted lose as much, 1.9 %, the mean of",
    "three draws between 1.4 and 2.3, and healed as long on the same texts 0.58; the last two dropped as they are,",
    "22.9 %, and 6.4 when the last three that remain (its head is a mean) are tuned for as long. On the GPT the choice",
    "counts: three random draws lose 7.7, 7.8 and 26 % where the search loses 4.5, all refitted. On the ViT the search",
    "takes the last two blocks, as the cheap control does; [removal.md](removal.md) sets all criteria on the GPT",
    "beside every choice there is.",
    "",
    "On which texts MiniLM is fitted and healed decides. Its task's calibration data are 2,000 film reviews; it is",
    "scored on captions, headlines and forum posts, a quarter of whose tokens the reviews lack. Rows `on glosses` and",
    "`glosses` read WordNet's glosses and example sentences instead (`glosses.py` makes them from the Debian package",
    "wordnet-base; 149,210 texts of 13 tokens, none of which is scored on; 2 % of the scored tokens do not occur in",
    "them). There are no labels in either:",
    "",
    "- Half in shared factors: 0.8265 before; 0.8273 healed on 1,800 reviews for 400 steps; 0.8476 on glosses for as",
    "  many, in two and a half minutes (same rate, every text once, embeddings as they are; not in the table);",
    "  0.8578, -1.1 %, the mean of three seeds, for 2,500 steps. The goal, 2 %, is met.",
    "- Two of six blocks removed: 0.8514 before; 0.8516 healed on reviews, 0.8627 on glosses for 1,000 steps.",
    "- 0.47 in shared factors, nothing trained: 0.8225 fitted on 256 reviews, 0.8359 on 512 glosses with as many",
    "  tokens; healed 0.8525 (1,000 steps) in place of 0.8238 (300).",
    "- The same in 4 bits, rounded by what each calls for: 1/15.02 of the bytes at -2.6 %, the mean of two seeds (-2.3",
    "  and -2.9), in place of 0.7915, -8.7 %. 4 bits cost 0.6 and 1.6 % where they cost 3.7. The goal, 1/15 within 4",
    "  %, is met.",
    "",
    "The rate 0.008 is too much (held-out loss 1.89 after 400 steps, 1.53 with 0.003). On reviews all forms had ended",
    "between 0.824 and 0.828 wherever they started, while the loss on held-out reviews fell by half: a held-out part",
    "of the same text does not tell of another. `splice`, `swap`, half the rate and embeddings that stay did not help",
    "there (0.8225 to 0.8238 at 0.47, with the held-out loss from 5.06 to 1.30).",
    "",
    "Independent low rank, which sharing has to beat, is ahead of it on MiniLM at equal bytes, all on glosses:",
    "0.8439 against 0.8407 at half and 0.8398 against 0.8359 at 0.47 with nothing trained, 0.8555 against 0.8525 at",
    "0.47 healed for 1,000 steps, 0.8561 against 0.8472 in 4 bits (1/14.93 of the bytes against 1/15.02; seed 0); and",
    "it multiplies less, 0.50 of the MACs against 0.61. (Its layers are refitted after the cut; those of the factors",
    "here are not, which took five minutes more and was done on reviews alone.) Low rank has one seed; the",
    "second of shared factors, 0.8557 healed, is ahead of it, and 0.8421 in 4 bits further behind.",
    "",
    "On the GPT half in shared factors loses least at its bytes: 0.48 % untrained and 0.15 % healed, where low rank",
    "loses 0.58 and 0.19 % (one seed; the intervals overlap), half removed 10.0 and 3.0, one matrix for several blocks",
    "40 and 4.8, and the control that shares the mean 80 and 10.3 %. A third removed loses 4.5 %, 1.5 healed (three",
    "seeds, 6.7257 to 6.7263), the control that drops the last ones and tunes the head and three blocks 10.0 %. Layer",
    "fusion, with as many steps as healing, ends where the refit alone does, at 4.6 %. One file of several depths is",
    "4.8 % behind at four of six blocks and 10.7 at three, a little more than files of one depth. In 4 bits shared",
    "factors lose 1.0 %, whole shared matrices 12.6 (`rtn`: 4.3 and 17.3), what was removed 1.7 and 3.4.",
    "",
    "One matrix for several blocks is the dearest form: blocks 1 to 4 read one set, -8.7 % before and -5.0 % after",
    "healing on reviews, -4.5 % (0.8278) after 560 steps with the blockwise loss, -3.0 % after 1,000 steps on glosses,",
    "with 4 bits too (1/14.68). Factors multiply a third less, in three quarters of the time.",
    "",
    "Bytes with 4 bits: half shared in one matrix is 1/14.68 with `shift-lut`, 1/14.69 with `shift` and 1/15.13 with",
    "one scale a column (`rtn`, whose metric was not measured); 4 % of them are biases and normalizations in float32.",
    "Factors have more columns, 1/14.26 at half. Two blocks removed, the rest at 0.47 in shared factors, healed and 4",
    "bits together are 1/22.48: they lose 3.4 % on glosses (300 steps) and lost 6.8 % on reviews (120 steps).",
    "",
    "Strict sharing is ahead of the control that shares the mean on the ViT (95.2 against 94.3 healed, 85.8 against",
    "80.3 before) and the GPT, and behind it on MiniLM: there the mean of blocks 1 to 4 loses 5.6 % untrained where",
    "one of them for all, refitted twice, loses 8.7 (padded positions still counted), 2.6 healed on glosses where that",
    "one loses 3.0, and 2.7 where it loses 3.0 in 4 bits; shared factors lose 4.7 on the same reviews and 3.1 on",
    "glosses, at the same bytes. On the ViT shared factors lose least at half of the bytes, 0.05 points healed (two",
    "seeds); independent low rank loses 0.48, removal 1.2 and whole shared matrices 1.8. At two thirds low rank is",
    "ahead of removal, 96.9 against 96.4.",
    "",
    "ResNet-56 loses most before it is trained, 4.4 points without 8 of its 25 equal blocks (0.70 of the MACs), and",
    "22 without the refit. Three random choices at the same MACs, refitted, lose as much, 4.4 points in the mean (2.9",
    "to 5.3, with 1/1.18 to 1/1.58 of the bytes): the refit does it here too. The last blocks, dropped as they are,",
    "lose 61, and so do blocks that share their mean (56). Low rank loses 1.4 at the bytes of two thirds (0.86 of the",
    "MACs) and 4.8 at half. Shared factors are for matrix products and find nothing in it. Half of the MACs removed",
    "is too much for it: 25 points, healed 11.8, with 4 bits 12.0 (1/34.5 of the bytes); so is one set of weights for",
    "several blocks, 61 points at 1/2.31, healed 9.5.",
    "Without those 8 blocks, healed for 400 steps with blends, 5.5 processor minutes, it ends 0.675 points below its",
    "original, the mean of three seeds (-0.50, -0.775, -0.75), just within the goal of 0.7, and with 4 bits behind",
    "that 0.325 (seed 0, 1/10.5). The original under the same training stays the original ([healing.md](healing.md)).",
    "",
    "Rows of 2026-11-21 are of that day; their models are gone, and so they have no latency. `third removed, healed`",
    "and its 4 bits then started from 0.8519, with only the layers refitted that write to the stream. Rows at padding,",
    "three fifths of MiniLM's calibration rows, counted in its refits until they were left out on 2026-11-22; of the",
    "rows here `third removed` and those at 0.47 are without them. It makes little difference: with them 0.47 in",
    "shared factors was 0.8192 and `third removed` 0.8524, from which the rows of 2026-11-22 behind it start.",
)
BY_BYTES = (
    "method",
    "block bytes",
    "file",
    "MACs",
    "latency",
    "value",
    "change",
    "interval",
    "processor seconds",
    "made",
)
BY_LATENCY = ("method", "latency", "change", "interval")
FASTER = 0.95


def main(data: Path, work: Path, patterns: Sequence[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    if list(patterns) == ["latency"]:
        time_all(data, work)
        patterns = ["page only"]
    listed = {(row.subject, row.method): row for row in rows()}
    there = {_key(one) for one in all_rows(work)}
    for seed, row in [(seed, row) for seed in SEEDS for row in listed.values() if seed in row.seeds]:
        chosen = any(fnmatch.fnmatchcase(row.name(seed), pattern) for pattern in patterns)
        if chosen or (not patterns and (row.subject, row.method, seed) not in there):
            try:
                _make(data, work, row, seed, listed)
            except Exception:  # noqa: BLE001 - hours of other rows wait behind this one
                traceback.print_exc()
    found = all_rows(work)
    commit_rows(KEPT, found)
    PAGE.write_text(page(found, kept_rows(LATENCIES)), encoding="utf-8")


def time_all(data: Path, work: Path) -> None:
    """Time what lies in the work folder; of other methods what was measured before stays."""
    kept = {(one["subject"], one["method"]): one for one in kept_rows(LATENCIES)}
    for subject in SUBJECTS:
        made = [one for one in work_rows(work) if one["subject"] == subject]
        for method, share in (latencies(data, work, subject, made) if made else {}).items():
            kept[subject, method] = {"subject": subject, "method": method, "share": share, **made_now()}
    commit_rows(LATENCIES, list(kept.values()))


def _make(data: Path, work: Path, row: Row, seed: int, listed: Mapping[tuple[str, str], Row]) -> Path:
    """Makes what a row starts from and then the row, unless they are there; the row's model."""
    base = None
    if row.base:
        start = listed[row.subject, row.base]
        base = _make(data, work, start, seed if seed in start.seeds else 0, listed)
    keep(work, row.name(seed), functools.partial(measured, data, work, row, seed, base))
    return model_file(work, row, seed)


def work_rows(work: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in work.glob("*.json")]


def all_rows(work: Path) -> list[dict[str, Any]]:
    """The committed rows and those of the work folder, by model, in the order of the methods and seeds."""
    order = {row.method: number for number, row in enumerate(rows())}
    found = {_key(one): one for one in kept_rows(KEPT)}
    for one in work_rows(work):
        found[_key(one)] = {name: value for name, value in one.items() if name not in NOT_COMMITTED}
    subjects = list(SUBJECTS)
    return sorted(
        found.values(),
        key=lambda one: (subjects.index(one["subject"]), order.get(one["method"], len(order)), one["seed"]),
    )


def _key(row: Result) -> tuple[str, str, int]:
    return row["subject"], row["method"], row["seed"]


def page(found: Sequence[Result], timed: Sequence[Result]) -> str:
    lines = ["# Folding depth", "", *INTRODUCTION, "", COMMAND, "", *(f"- {made}" for made in makers(found))]
    if timed:
        lines += [f"- Latencies: {made}" for made in makers(timed)]
    for subject in SUBJECTS:
        mine = [one for one in found if one["subject"] == subject]
        latency = {one["method"]: one["share"] for one in timed if one["subject"] == subject}
        lines += ["", *section(subject, mine, latency)] if mine else []
    return "\n".join([*lines, "", "## Reading", "", *READING, "", "## The recipes", "", *made_from(found), ""])


def section(subject: str, results: Sequence[Result], latency: Mapping[str, float]) -> list[str]:
    """A model's methods by the bytes that they store, then those that are faster by their latency."""
    methods: dict[str, list[Result]] = {}
    for one in results:
        methods.setdefault(one["method"], []).append(one)
    stored = sorted(methods.values(), key=lambda of: -mean(of, "block_share"))
    faster = sorted((share, method) for method, share in latency.items() if share < FASTER and method in methods)
    by_latency = [
        "",
        "By latency:",
        "",
        table(BY_LATENCY),
        *(f"| {method} | {share:.2f} | {shown_change(methods[method])} |" for share, method in faster),
    ]
    return [
        f"## {subject}: {results[0]['metric']} {results[0]['fp32']:.4f} in float32",
        "",
        "By stored bytes:",
        "",
        table(BY_BYTES),
        *(by_bytes(of, latency.get(of[0]["method"])) for of in stored),
        *(by_latency if faster else []),
    ]


def by_bytes(of: Sequence[Result], latency: float | None) -> str:
    macs = of[0]["macs_share"]
    cells = (
        of[0]["method"],
        f"1/{1 / mean(of, 'block_share'):.2f}",
        f"{mean(of, 'bytes') / 1e6:.2f} MB",
        "" if macs is None else f"{macs:.2f}",
        "" if latency is None else f"{latency:.2f}",
        f"{mean(of, 'value'):.4f}",
        shown_change(of),
        f"{mean(of, 'seconds'):.0f}",
        max(one["date"] for one in of),
    )
    return f"| {' | '.join(cells)} |"


def shown_change(of: Sequence[Result]) -> str:
    """Mean change, relative change, and the interval (one seed) or the range (several)."""
    changes = [one["change"] for one in of]
    low, high = of[0]["interval"] if len(of) == 1 else (min(changes), max(changes))
    seeds = "" if len(of) == 1 else f", {len(of)} seeds"
    relative = 100 * mean(of, "change") / of[0]["fp32"]
    return f"{mean(of, 'change'):+.4f} ({relative:+.2f} %) | {low:+.4f} to {high:+.4f}{seeds}"


def table(columns: Sequence[str]) -> str:
    return f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
