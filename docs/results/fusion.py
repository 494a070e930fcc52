# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/fusion.md: what the cost model of `fuse-blocks` chooses for each block beside what is faster.

    python docs/results/fusion.py DATA_FOLDER WORK_FOLDER [NAME ...]

Every candidate block is cut out of the model twice, as separate nodes and as one fused node, and the two run in turns
on one thread. The blocks of runtime/bench/bench_inverted_residual.py are models of their own. Compressed models stay in
WORK_FOLDER, with one JSON file of times a model. The times are those that the calling thread, which does all the work,
has had a core for, so that other processes disturb little.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from rows import keep, machine_line

from edgefold.compression import compress
from edgefold.files.loading import load_model
from edgefold.measuring.devices import LOCAL, device
from edgefold.passes.base import Context, Notes
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.passes.fusion.cost import Device, Level
from edgefold.probing import probe
from edgefold.session import make_session

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "runtime" / "bench"))
from bench_inverted_residual import ACTIVATIONS, SHAPES  # noqa: E402
from residual_blocks import SAMPLES, TASK, Block, float_model  # noqa: E402

READING = (
    "- The model chooses `joined` for every block. When such a table was first made, on AVX2, it was wrong for blocks",
    "  with stride 2 on large images: 0.974x and 1.062x at 112x112, 0.944x and 1.005x at 56x56, in two runs each.",
    "  What it missed was arithmetic. It takes fusing to change none, but the kernel split the rows of these",
    "  blocks into 7 and 3 bands for threads, and each band computed the expanded row at its upper border anew,",
    "  on one thread too: 6 rows of 112 and 2 of 56, 45 of 1006 and 12 of 415 microseconds (the kernels alone).",
    "  The kernel was corrected, not the model: a band now goes on with the ring of the one before where that is",
    "  done, so that one thread computes no row twice. It runs 4.9 and 3.8 % fewer instructions for it.",
    "- In seven of the nine shapes the fused kernel runs 1 to 5 % more instructions than the three (callgrind):",
    "  it works on about 32 pixels at a time instead of 128, so that weights are read and decoded more often.",
    "  What makes up for it is traffic between the caches and two nodes less, 1.3 microseconds each in a chain of",
    "  40 of the smallest ShiftMatMul, where the model counts 0.3.",
    "- PP-OCR's last four blocks it left apart until 2026-11-23, where joined is 1.04 to 1.08 times as fast. What does",
    "  not fit into a level was counted as if none of it did, rings of 48 and 67 KB as all in L2; now a level holds as",
    "  much of it as it can.",
    "- Counting the kernel's ring, its blocks of pixels and a microsecond a node was tried on paper and not",
    "  taken: the choices are the same but for 56x56 with stride 2, which it would leave apart by 0.1",
    "  microseconds.",
    "- No block here is faster apart, so the table says nothing of blocks that the model would leave alone.",
    "- The times above are of VNNI. On AVX2 (Zen 3, 2026-11-21) 33 of the 35 choices were of the faster way and two",
    "  of ways that are alike: joined gained up to 1.046x in MobileNetV2, 1.05 to 1.11 in MiniLM and 1.18 to 1.26 in",
    "  the ViT. Where products take longer, what lies between them weighs less. The table was made beside one other",
    "  measurement, on the other core.",
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model whose blocks are timed.

    Attributes:
        name: as the page shows it.
        folder: in the folder of data, with the model and its task; the same name in the folder of work.
        shapes: of one sample's inputs.
        calibrated: whether its task's data are read; layers that quantize rows as they come need none.
        block: of which the model is made; None where it lies in the folder of data.
    """

    name: str
    folder: str
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    calibrated: bool = False
    block: Block | None = None


def tokens(count: int) -> Mapping[str, tuple[int, ...]]:
    return dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, count))


BLOCKS = [Block(*shape, activation) for activation in ACTIVATIONS for shape in SHAPES]
SUBJECTS = [
    Subject("mobilenetv2", "imagenet_mobilenetv2", calibrated=True),
    Subject("ppocr", "ppocr_det_v2", {"x": (1, 3, 640, 640)}, calibrated=True),
    *(Subject(f"one block, {block.activation}", str(block).replace(" ", "_"), block=block) for block in BLOCKS),
    Subject("minilm, 128 tokens", "minilm", tokens(128)),
    Subject("minilm, 16 tokens", "minilm", tokens(16)),
    Subject("vit_mnist", "vit_mnist", {"image": (1, 1, 28, 28)}),
    Subject("gpt_charlm", "gpt_charlm", {"input_ids": (1, 128)}),
]
KINDS = ("feed-forward", "linear", "inverted-residual")
RECIPE = """steps:
  - {pass: simplify}
  - {pass: fold-batchnorm}
  - {pass: quantize, weights: 4, activations: 8, method: shift, rounding: nearest, embeddings: 8, first-last: 8}
"""
FREE = Device("free", (Level("free", math.inf, math.inf),))  # where moving costs nothing, so that everything is fused
TURNS, SECONDS = 100, 1.0  # of a block: as many turns as fit into the time, and no fewer than these
ALIKE = 0.01  # where the operands happen to lie in memory makes as much of a difference


def main(data: Path, work: Path, names: Sequence[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    for subject in SUBJECTS:
        if not names or subject.name in names:
            keep(work, _key(subject), functools.partial(measured, data, work, subject))
    made = {subject.name: [] for subject in SUBJECTS}
    for subject in SUBJECTS:
        path = work / f"{_key(subject)}.json"
        made[subject.name] += json.loads(path.read_text())["rows"] if path.exists() else []
    (HERE / "fusion.md").write_text(page(made), encoding="utf-8")


def measured(data: Path, work: Path, subject: Subject) -> dict[str, Any]:
    return {"name": subject.name, "rows": list(measure(data, work, subject))}


def _key(subject: Subject) -> str:
    return f"{subject.name}_{subject.folder}".replace(" ", "_")


def compressed(data: Path, work: Path, subject: Subject) -> Path:
    recipe, out = work / "recipe.yaml", work / subject.folder
    recipe.write_text(RECIPE)
    if not out.exists():
        source = data / subject.folder if subject.block is None else written(subject.block, work / "blocks")
        task = source / "task.yaml" if subject.calibrated or subject.block else None
        compress(source / "model.onnx", out, str(recipe), task, seed=0)
    return out / "model.onnx"


def written(block: Block, folder: Path) -> Path:
    """The folder of a block's model with a task of random images."""
    folder = folder / str(block).replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(float_model(block), folder / "model.onnx")
    size = (SAMPLES, block.channels, block.size, block.size)
    np.savez(folder / "samples.npz", x=np.random.default_rng(0).normal(size=size).astype(np.float32))
    (folder / "task.yaml").write_text(TASK, encoding="utf-8")
    return folder


def measure(data: Path, work: Path, subject: Subject) -> Iterator[dict[str, Any]]:
    """A row for every candidate block of a model."""
    context = Context(probe=functools.partial(probe, shapes=subject.shapes))
    apart = load_model(compressed(data, work, subject)).model
    fuse(apart, context, device(LOCAL), "conv-region")
    joined, chosen = apart.clone(), apart.clone()
    fuse(joined, context, FREE, *KINDS)
    decisions = fuse(chosen, context, device(LOCAL), *KINDS).table
    shapes = probe(apart, shapes=subject.shapes).shapes
    nodes = {node.name: node for node in joined.graph if node.op_type.startswith("Fused")}
    for decision in decisions:
        node = nodes[decision["block"]]
        ends = [str(value.name) for value in node.inputs if value is not None and value.const_value is None]
        y = str(node.outputs[0].name)
        pair = [cut(apart, ends, y.removesuffix(".fused")), cut(joined, ends, y)]
        times = in_turns(pair, {end: shapes[end] for end in ends})
        yield {**decision, "shape": shapes[ends[0]], "apart_us": times[0], "joined_us": times[1]}


def fuse(model: ir.Model, context: Context, where: Device, *kinds: Any) -> Notes:
    there = Context(probe=context.probe, device=lambda _: where)
    return FuseBlocks(kinds=kinds).rewrite(model, there)


def cut(model: ir.Model, inputs: Sequence[str], output: str) -> ir.Model:
    """What lies between these values, as a model of its own."""
    graph = ir.convenience.extract(model.graph, list(dict.fromkeys(inputs)), [output])
    graph.opset_imports.update(model.graph.opset_imports)
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))


def in_turns(models: Sequence[ir.Model], shapes: dict[str, tuple[int, ...]]) -> list[float]:
    """Microseconds of a run of each: the twentieth part of the runs was faster."""
    rng = np.random.default_rng(0)
    sessions = [make_session(model, threads=1) for model in models]
    kinds = {one.name: one.type for one in sessions[0].get_inputs()}
    feeds = {name: values(rng, shape, kinds[name]) for name, shape in shapes.items()}
    outputs = [session.run(None, feeds)[0] for session in sessions]
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-3)
    times: list[list[float]] = [[] for _ in sessions]
    while len(times[0]) < TURNS or sum(map(sum, times)) < SECONDS * 1e6:
        for session, its in zip(sessions, times, strict=True):
            start = time.thread_time_ns()
            session.run(None, feeds)
            its.append((time.thread_time_ns() - start) * 1e-3)
    return [float(np.quantile(its, 0.05)) for its in times]


def values(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray[Any, Any]:
    if kind == "tensor(float)":
        return rng.standard_normal(shape).astype(np.float32)
    codes = (0, 256, np.uint8) if kind == "tensor(uint8)" else (-127, 128, np.int8)
    return rng.integers(codes[0], codes[1], shape).astype(codes[2])


def page(made: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    rows = [(name, number, row, verdict(row)) for name, its in made.items() for number, row in enumerate(its, 1)]
    counts = {kind: sum(its == kind for *_, its in rows) for kind in ("right", "alike", "wrong")}
    lines = [
        "# What fuse-blocks chooses, and what is faster",
        "",
        "Every block that the kinds `inverted-residual`, `feed-forward` and `linear` could fuse, cut out of its model",
        "as separate nodes (`apart`) and as one (`joined`), in turns on one thread through `session.run`; 4-bit",
        "weights, `shift`. Microseconds for which the calling thread had a core; a twentieth of the runs was faster.",
        "`predicted` is what the cost model (passes/fusion/cost.py) counts, without what both share. Differences",
        f"of {ALIKE:.0%} are called alike: copies of one block at other addresses differ by as much.",
        "",
        f"{machine_line()} Command: `python docs/results/fusion.py DATA WORK`.",
        "",
        f"**Of {len(rows)} choices {counts['right']} are of the faster way, {counts['alike']} of ways that are alike, "
        f"{counts['wrong']} wrong.**",
        "",
        "| model | kind | block | input | predicted: apart / joined | chosen | apart / joined | gain | choice |",
        "|---|---|---|---|---|---|---|---|---|",
        *(table_row(*row) for row in rows),
        "",
        *READING,
        "",
    ]
    return "\n".join(lines)


def verdict(row: dict[str, Any]) -> str:
    gain = row["apart_us"] / row["joined_us"]
    if abs(gain - 1) <= ALIKE:
        return "alike"
    return "right" if row["fuse"] == (gain > 1) else "wrong"


def table_row(name: str, number: int, row: dict[str, Any], kind: str) -> str:
    cells = (
        name,
        row["kind"] + (f", {row['activation']}" if "activation" in row else ""),
        str(number),
        "x".join(map(str, row["shape"])),
        f"{row['unfused_us']:.1f} / {row['fused_us']:.1f}",
        "joined" if row["fuse"] else "apart",
        f"{row['apart_us']:.1f} / {row['joined_us']:.1f}",
        f"{row['apart_us'] / row['joined_us']:.3f}x",
        kind,
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
