# SPDX-License-Identifier: Apache-2.0
"""The rows of docs/results/depth.md: the same methods on each model, as recipes that start from others' results."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Step = Mapping[str, Any]
SEEDS = (0, 1, 2)
W4: Sequence[Step] = (
    {"pass": "simplify"},
    {"pass": "fold-batchnorm"},
    *({"pass": "quantize", "weights": 4, "method": "shift-lut", "rounding": "gptq", "embeddings": 8, "first_last": 8},),
)
_LESS_THAN_HALF: Step = {"pass": "share-weights", "keep": 0.47, "form": "factors", "refits": 0}
"""1/15 of the bytes in 4 bits."""
_GLOSSES: Step = {
    "pass": "heal",
    "patience": 0,
    "threads": 1,
    "device": "cpu",
    "batch": 32,
    "held_out": 0.03,
    "loss": ["output", "blockwise"],
    "precision": "bfloat16",
    "train": ["*layer.*"],
}
PLAIN_W4: Sequence[Step] = (*W4[:2], {**W4[2], "method": "rtn"})
"""One scale a column and no shifts of groups, which are 3 % of the bytes."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model and what fits it.

    Attributes:
        file: below the data folder, without its ending; its task lies beside it.
        shapes: of the inputs whose latency is measured.
        third, half: options of `remove-blocks` that take out a third and a half of the blocks (of the MACs).
        stored: shares of the blocks' bytes that the other methods keep, to be compared with a third and a half removed.
        heal: options of `heal` for at most six minutes of one processor.
        ends: the weights of the head and of the last three blocks that remain when the last third is gone, as globs.
        depths: of the elastic file.
        fused: how many blocks are a third.
        outside: nodes with weights that belong to no block, as globs; low rank leaves them alone as the others do.
        without: methods that are not made, as globs.
    """

    file: str
    shapes: Sequence[str]
    third: Step
    half: Step
    stored: tuple[float, float]
    heal: Step
    ends: Sequence[str]
    depths: Sequence[int]
    fused: int
    outside: Sequence[str] = ()
    without: Sequence[str] = ()


SUBJECTS: Mapping[str, Subject] = {
    "minilm": Subject(
        "minilm/model",
        [f"{name}=1x128" for name in ("input_ids", "attention_mask", "token_type_ids")],
        {"blocks": 2, "criterion": "exhaustive"},
        {"blocks": 3, "criterion": "exhaustive"},
        (0.667, 0.5),
        {
            "steps": 300,
            "batch": 32,
            "loss": ["output", "blockwise"],
            "augment": ["splice", "swap"],
            "precision": "bfloat16",
            "train": ["*layer.*"],  # tables of embeddings, of which the samples know a quarter, stay
            "learning_rate": 0.0015,
        },
        ["/layer.1/*", "/layer.2/*", "/layer.3/*"],  # its head is a mean
        (3, 4),
        2,
        without=(  # trained on glosses instead
            *("original, *", "third removed, no refit", "half removed*", "third removed, rest shared, healed*"),
            *("*no shifts", "half in shared factors, healed, 4 bits", "low rank, two thirds*", "low rank, half*"),
            *("control: mean shared, healed", "control: last removed, head*", "control: random removed, healed"),
            *("third fused", "elastic, no refit*", "elastic, judged*", "third removed, judged repaired, healed*"),
        ),
    ),
    "gpt_charlm_longer": Subject(  # of charlm_training.py
        "gpt_charlm_longer/model",
        ["input_ids=1x128"],
        {"blocks": 2, "criterion": "exhaustive"},
        {"blocks": 3, "criterion": "exhaustive"},
        (0.667, 0.5),
        {"steps": 320, "batch": 16, "loss": ["output"]},
        ["/h.1/*", "/h.2/*", "/h.3/*", "/ln_f/*", "/MatMul"],
        (3, 4),
        2,
        ["/MatMul"],
        ("third removed, rest*", "low rank, two thirds, healed*", "low rank, half, healed, 4 bits", "less than half*"),
    ),
    "vit_mnist": Subject(
        "vit_mnist/model",
        ["image=1x1x28x28"],
        {"blocks": 2, "criterion": "exhaustive"},
        {"blocks": 3, "criterion": "exhaustive"},
        (0.667, 0.5),
        {"steps": 400, "batch": 64, "loss": ["output"]},
        ["/layers.1.*", "/layers.2.*", "/layers.3.*", "/mlp_head/*"],
        (3, 4),
        2,
        ["/patch_to_embedding/*", "/mlp_head/*"],
    ),
    "cifar_resnet56": Subject(
        "cifar_resnet56/model",
        ["input=1x3x32x32"],
        {"flops": 0.7, "criterion": "greedy"},
        {"flops": 0.5, "criterion": "greedy"},
        (0.7, 0.5),
        {
            "steps": 400,
            "batch": 64,
            "loss": ["output", "blockwise"],
            "learning_rate": 0.005,
            "augment": ["flip", "crop", "mix"],
        },
        ["/layer3/layer3.0/*", "/layer2/layer2.8/*", "/layer2/layer2.7/*", "/linear/*"],  # the last eight blocks go
        (13, 18),
        8,
        ["/conv1/*", "/layer2/layer2.0/*", "/layer3/layer3.0/*", "/linear/*"],
        without=(  # shared factors are of matrix products
            *("half in shared factors, healed*", "less than half*", "third removed, rest*", "*no shifts"),
            *("low rank, two thirds, healed*", "elastic, no refit*", "elastic, judged*", "half removed, judged*"),
        ),
    ),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
        subject: name of the model.
        method: as the page shows it.
        steps: of the recipe.
        base: the method whose result with the same seed (or 0) it starts from; the original where it is empty.
        seeds: with which it is run.
        values: of optional inputs, for the score and the latency.
        task: whose calibration data the steps read, the name of a task file beside the model; all are scored alike.
    """

    subject: str
    method: str
    steps: Sequence[Step]
    base: str = ""
    seeds: Sequence[int] = (0,)
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    task: str = "task"

    def name(self, seed: int) -> str:
        return f"{self.subject} {self.method} seed{seed}"


def rows() -> Iterator[Row]:
    """All rows, so that what a row starts from comes before it."""
    for name, subject in SUBJECTS.items():
        for row in _of(name, subject):
            if not any(fnmatch.fnmatchcase(row.method, glob) for glob in subject.without):
                yield row
    yield from _on_glosses()
    yield from _options()


def _of(name: str, subject: Subject) -> Iterator[Row]:
    heal = {"pass": "heal", "patience": 0, "threads": 1, "device": "cpu", **subject.heal}
    third, half = ({"pass": "remove-blocks", **budget} for budget in (subject.third, subject.half))

    def healed(method: str) -> Row:
        return Row(name, f"{method}, healed", [heal], method, SEEDS)

    def in_4_bits(method: str) -> Row:
        return Row(name, f"{method}, 4 bits", W4, method, SEEDS if method.endswith("healed") else (0,))

    def in_4_bits_without_shifts(method: str) -> Row:
        return Row(name, f"{method}, 4 bits, no shifts", PLAIN_W4, method, SEEDS)

    yield Row(name, "original", [])
    yield healed("original")  # what the training alone does to the metric
    yield in_4_bits("original")
    yield Row(name, "third removed, no refit", [{**third, "repair": "none"}])
    for method, steps in (
        ("third removed", [third]),
        ("half removed", [half]),
        ("third removed, judged repaired", [{**third, "criterion": "repaired"}]),
        ("half removed, judged repaired", [{**half, "criterion": "repaired"}]),
        ("half shared", [{"pass": "share-weights", "keep": 0.5}]),
        ("half in shared factors", [{"pass": "share-weights", "keep": 0.5, "form": "factors"}]),
        ("third removed, rest shared", [third, {"pass": "share-weights", "keep": 0.5}]),
        ("low rank, two thirds", [{"pass": "low-rank", "keep": subject.stored[0]}]),
        ("low rank, half", [{"pass": "low-rank", "keep": subject.stored[1]}]),
        ("control: mean shared", [{"pass": "share-weights", "keep": 0.5, "source": "mean", "refits": 0}]),
    ):
        yield Row(name, method, steps)
        yield healed(method)
        if not method.startswith("control"):
            yield in_4_bits(f"{method}, healed")
            if "shared" in method:
                yield in_4_bits_without_shifts(f"{method}, healed")
    method = "less than half in shared factors"
    yield Row(name, method, [_LESS_THAN_HALF])
    yield healed(method)
    yield in_4_bits(f"{method}, healed")
    short = {**heal, "steps": 120}
    both = "third removed, rest in shared factors, healed, 4 bits"
    yield Row(name, both, [_LESS_THAN_HALF, short, *W4], "third removed", SEEDS)
    yield Row(name, "third fused", [_fusion(subject)], "", SEEDS)
    yield Row(name, "control: last removed", [{**third, "criterion": "last", "repair": "none"}])
    tuned = [{**heal, "train": list(subject.ends)}]
    yield Row(name, "control: last removed, head and three blocks tuned", tuned, "control: last removed", SEEDS)
    yield Row(name, "control: random removed", [{**third, "criterion": "random"}], "", SEEDS)
    yield healed("control: random removed")
    yield from _elastic(name, subject)


def _elastic(name: str, subject: Subject) -> Iterator[Row]:
    """Files of several depths."""
    for title, options in (
        ("elastic", {"repair": "least-squares", "criterion": subject.third["criterion"]}),
        ("elastic, no refit", {"repair": "none", "criterion": subject.third["criterion"]}),
        ("elastic, judged repaired", {"repair": "least-squares", "criterion": "repaired"}),
    ):
        yield Row(name, title, [{"pass": "elastic-depth", "depths": list(subject.depths), **options}])
        for depth in subject.depths:
            yield Row(name, f"{title}, depth {depth}", [], title, values={"depth": depth})


def _on_glosses() -> Iterator[Row]:
    """MiniLM's rows that are fitted and healed on general English, one pass over many short texts (`glosses.py`)."""

    def row(method: str, steps: Sequence[Step], base: str, seeds: Sequence[int] = (0,)) -> Row:
        return Row("minilm", method, steps, base, seeds, task="glosses")

    brief = {**_GLOSSES, "steps": 1000, "samples": 34_000}
    half, less = "half in shared factors", "less than half in shared factors, glosses"
    yield row(f"{half}, healed on glosses", [{**_GLOSSES, "steps": 2500, "samples": 84_000}], half, SEEDS)
    yield row(f"{half}, healed on glosses, 4 bits", W4, f"{half}, healed on glosses", SEEDS)
    yield row(less, [_LESS_THAN_HALF], "")
    yield row(f"{less}, healed", [brief], less, SEEDS)
    yield row(f"{less}, healed, 4 bits", W4, f"{less}, healed", SEEDS)
    removed = ("third removed", "third removed, judged repaired", "control: random removed")
    for method in (*removed, "half shared", "control: mean shared"):
        yield row(f"{method}, healed on glosses", [brief], method, SEEDS)
        yield row(f"{method}, healed on glosses, 4 bits", W4, f"{method}, healed on glosses", SEEDS)
    tuned = {**brief, "train": list(SUBJECTS["minilm"].ends)}
    last = "control: last removed"
    yield row(f"{last}, head and three blocks tuned on glosses", [tuned], last, SEEDS)
    yield row("third fused on glosses", [{**_fusion(SUBJECTS["minilm"]), "steps": 500, "samples": 17_000}], "", SEEDS)
    yield row(f"{half}, glosses", [{"pass": "share-weights", "keep": 0.5, "form": "factors", "refits": 0}], "")
    yield row("low rank, half, glosses", [{"pass": "low-rank", "keep": 0.5}], "")
    short = {**_GLOSSES, "steps": 300, "samples": 10_000}
    both = "third removed, rest in shared factors, glosses, healed, 4 bits"
    yield row(both, [_LESS_THAN_HALF, short, *W4], "third removed", SEEDS)
    control = "low rank, less than half, glosses"
    yield row(control, [{"pass": "low-rank", "keep": 0.47}], "")
    yield row(f"{control}, healed", [brief], control, SEEDS)
    yield row(f"{control}, healed, 4 bits", W4, f"{control}, healed", SEEDS)


def _options() -> Iterator[Row]:
    """What no other row shows, one option at a time, on the smallest model."""
    name, subject = "vit_mnist", SUBJECTS["vit_mnist"]
    share = {"pass": "share-weights", "keep": 0.5}
    heal = {"pass": "heal", "patience": 0, "threads": 1, "device": "cpu", **subject.heal}
    for title, shared in (
        ("scales", {"scales": True}),
        ("corrections of rank 2", {"delta_rank": 2}),
        ("corrections of rank 2 and scales", {"delta_rank": 2, "scales": True}),
        ("feed-forward halves only", {"modules": "feed-forward"}),
        ("attention only", {"modules": "attention"}),
    ):
        yield Row(name, f"half shared, {title}", [{**share, **shared}])
        yield Row(name, f"half shared, {title}, healed", [heal], f"half shared, {title}", SEEDS)
    atoms = "half in shared atoms"
    yield Row(name, atoms, [{**share, "form": "atoms"}])
    yield Row(name, f"{atoms}, healed", [heal], atoms, SEEDS)
    halves = "third removed in halves or whole"
    yield Row(name, halves, [{"pass": "remove-blocks", "parts": "any", "flops": 0.67, "criterion": "greedy"}])
    yield Row(name, f"{halves}, healed", [heal], halves, SEEDS)
    for title, healed in (
        ("hidden tensors", {"loss": ["output", "blockwise"]}),
        ("hidden tensors, warm-up by blocks", {"loss": ["output", "blockwise"], "warm_up": 0.5}),
        ("tail", {"loss": ["tail"]}),
        ("adapters of rank 4", {"adapters": 4}),
    ):
        yield Row(name, f"third removed, healed, {title}", [{**heal, **healed}], "third removed", SEEDS)
    yield Row(name, "elastic, 4 bits", W4, "elastic")
    for depth in subject.depths:
        yield Row(name, f"elastic, 4 bits, depth {depth}", [], "elastic, 4 bits", values={"depth": depth})


def _fusion(subject: Subject) -> Step:
    """As many steps as healing has, of the same size, shared out over the removed blocks."""
    steps = subject.heal["steps"] // subject.fused
    return {
        "pass": "fuse-layers",
        "blocks": subject.fused,
        "steps": steps,
        "batch": subject.heal["batch"],
        "threads": 1,
    }
