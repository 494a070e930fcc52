# SPDX-License-Identifier: Apache-2.0
"""What healing makes small: chosen from the options, the task's metric and what the two models have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from edgefold.errors import UsageError
from edgefold.heal import losses
from edgefold.heal.hidden import Pair, paired_hidden
from edgefold.heal.views import Mean, mean_classes, mean_values
from edgefold.padding import padding_mask

if TYPE_CHECKING:
    from edgefold.interface import ModelInterface
    from edgefold.passes.heal import Heal
    from edgefold.scoring.task import Task

Tensors = Mapping[str, Tensor]
Term = Callable[[Tensors, Tensors, Tensor | None], Tensor]

HIDDEN = ("tail", "blockwise", "pairs")
TAIL = 2  # hidden tensors that the tail loss compares
DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "error": losses.relative_error,
    "error+cosine": lambda ours, wanted: (
        losses.relative_error(ours, wanted) + losses.token_cosine_distance(ours, wanted)
    ),
    "batch-kl": losses.batch_kl,
}
DISTANCE_NAMES = {
    "error": "relative squared error",
    "error+cosine": "relative squared error and cosine distance",
    "batch-kl": "KL divergence along the batch",
}
CLASSES = ("top1", "top5", "agreement", "perplexity")
EMBEDDINGS = ("cosine", "spearman_cosine")


class Answer(NamedTuple):
    """What is made small about an output, the sentence that says so, and what several answers of a teacher mean."""

    term: Term
    described: str
    mean: Mean


@dataclasses.dataclass(frozen=True)
class Objective:
    """A sum of terms, each a mean over samples.

    Attributes:
        terms: (student's tensors, teacher's tensors, labels) -> scalar.
        described: a sentence a term, for the report.
        hidden: pairs of hidden tensors, of the student and of the teacher, that they must give.
        means: outputs of the teacher that are read, each with what several answers mean; empty where only labels are.
        reads_outputs: whether any term reads outputs of the student.
        warm_up: the term that stands alone at the beginning, or None.
        mask: input [batch, positions] that is 0 where a position is padding; what is there does not count.
    """

    terms: tuple[Term, ...]
    described: tuple[str, ...]
    hidden: tuple[Pair, ...]
    means: Mapping[str, Mean]
    mask: str | None = None
    reads_outputs: bool = True
    warm_up: Term | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the teacher that are read."""
        return tuple(self.means)

    @property
    def of_student(self) -> tuple[str, ...]:
        """The hidden tensors that the student must give."""
        return tuple(dict.fromkeys(ours for ours, _ in self.hidden))

    @property
    def of_teacher(self) -> tuple[str, ...]:
        """The tensors that the teacher must give."""
        return tuple(dict.fromkeys((*self.outputs, *(theirs for _, theirs in self.hidden))))

    def __call__(
        self, student: Tensors, teacher: Tensors, labels: Tensor | None, feeds: Tensors, warming: bool = False
    ) -> Tensor:
        if self.mask is not None:
            student, teacher = (_without_padding(tensors, feeds[self.mask]) for tensors in (student, teacher))
        if warming and self.warm_up is not None:
            return self.warm_up(student, teacher, labels)
        total = self.terms[0](student, teacher, labels)
        for term in self.terms[1:]:
            total = total + term(student, teacher, labels)
        return total


def make_objective(
    options: Heal,
    task: Task,
    interface: ModelInterface,
    student: ir.Model,
    teacher: ir.Model,
    feeds: Mapping[str, np.ndarray[Any, Any]],
) -> Objective:
    """Choose the terms.

    Args:
        options: names of the losses, pairs of hidden tensors, and the temperature.
        task: its metric tells what kind of thing the output is.
        interface: of the student.
        student: the compressed model.
        teacher: the original.
        feeds: a few samples, to find the hidden tensors that agree in shape.

    Raises:
        UsageError: a loss that this task or these models do not have.
    """
    outputs = _output_terms(options, task, interface, student) if "output" in options.loss else {}
    hidden = _hidden_terms(options, student, teacher, feeds)
    terms = [
        *((one.term, one.described) for one in outputs.values()),
        *(hidden[name][1] for name in HIDDEN if name in options.loss),
    ]
    if "labels" in options.loss:
        terms.append(_label_term(task, interface, student))
    mask = padding_mask(feeds)
    described = [text for _, text in terms]
    if mask is not None:
        described.append(f"positions where '{mask}' is 0 do not count")
    if options.teacher_views:
        described.append(
            f"the original's answer is the mean over views of the image ({', '.join(options.teacher_views)})"
        )
    if options.warm_up:
        described.insert(0, f"the first {100 * options.warm_up:g} % of it {hidden['blockwise'][1][1]}, then")
    return Objective(
        tuple(term for term, _ in terms),
        tuple(described),
        tuple(dict.fromkeys(pair for pairs, _ in hidden.values() for pair in pairs)),
        {name: one.mean for name, one in outputs.items()},
        mask,
        bool(outputs) or "labels" in options.loss,
        hidden["blockwise"][1][0] if options.warm_up else None,
    )


def _without_padding(tensors: Tensors, mask: Tensor) -> dict[str, Tensor]:
    """Zeros at the padded positions of every float tensor [batch, positions, ...]."""
    return {
        name: torch.where(mask.bool().reshape(*mask.shape, *[1] * (tensor.dim() - 2)), tensor, 0)
        if tensor.dim() > 2 and tensor.shape[:2] == mask.shape and tensor.is_floating_point()
        else tensor
        for name, tensor in tensors.items()
    }


def _output_terms(options: Heal, task: Task, interface: ModelInterface, student: ir.Model) -> dict[str, Answer]:
    """A term for every float output: by the metric for the one that it reads, squared error for the others."""
    scored = interface.output(task.metric.output, f"{task.path}: metric").name
    terms: dict[str, Answer] = {}
    for port in interface.outputs:
        if port.dtype.kind != "f":
            continue
        metric = task.metric.name if port.name == scored else "mse"
        terms[port.name] = _output_term(
            port.name, metric, options.temperature, _gives_probabilities(student, port.name)
        )
    if not terms:
        raise UsageError(
            f"--loss output: the outputs {', '.join(port.name for port in interface.outputs)} are integers, which have "
            "no gradient; take --loss tail or blockwise"
        )
    return terms


def _output_term(name: str, metric: str, temperature: float, probabilities: bool) -> Answer:
    if metric in CLASSES:
        logits = losses.logits_of if probabilities else _unchanged
        what = "probabilities" if probabilities else "logits"
        return Answer(
            lambda student, teacher, _: losses.kl_divergence(logits(student[name]), logits(teacher[name]), temperature),
            f"output '{name}': KL divergence of {what} at temperature {temperature:g}",
            partial(mean_classes, temperature=temperature, probabilities=probabilities),
        )
    if metric in EMBEDDINGS:
        return Answer(
            lambda student, teacher, _: (
                losses.cosine_distance(student[name], teacher[name])
                + losses.relative_error(student[name], teacher[name])
                + losses.similarity_error(student[name], teacher[name])
            ),
            f"output '{name}': cosine distance, relative squared error, and error of the cosines between samples",
            mean_values,
        )
    return Answer(
        lambda student, teacher, _: losses.relative_error(student[name], teacher[name]),
        f"output '{name}': relative squared error",
        mean_values,
    )


def _hidden_terms(
    options: Heal, student: ir.Model, teacher: ir.Model, feeds: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, tuple[tuple[Pair, ...], tuple[Term, str]]]:
    """The pairs and the term of each loss of hidden tensors that the options ask for, a warm-up included."""
    asked = [name for name in HIDDEN if name in options.loss or (name == "blockwise" and options.warm_up)]
    if not asked:
        return {}
    found = paired_hidden(student, teacher, feeds, options.pairs)
    if not found:
        raise UsageError(
            "--loss tail/blockwise: student and teacher have no hidden tensor of the same layer or name, and shape; "
            "take --loss output, or name tensors with --pair"
        )
    pairs = {"tail": found[-TAIL:], "blockwise": found, "pairs": options.pairs}
    return {name: (pairs[name], _hidden_term(pairs[name], name, options.distance)) for name in asked}


def _hidden_term(pairs: tuple[Pair, ...], kind: str, distance: str) -> tuple[Term, str]:
    measure = DISTANCES[distance]

    def term(student: Tensors, teacher: Tensors, _: Tensor | None) -> Tensor:
        errors = [measure(student[ours], teacher[theirs]) for ours, theirs in pairs]
        return sum(errors[1:], start=errors[0]) / len(errors)

    listed = ", ".join(ours for ours, _ in pairs) if len(pairs) <= TAIL else f"{len(pairs)} hidden tensors"
    return term, f"{kind}: {DISTANCE_NAMES[distance]} of {listed}"


def _label_term(task: Task, interface: ModelInterface, student: ir.Model) -> tuple[Term, str]:
    name, metric = interface.output(task.metric.output, f"{task.path}: metric").name, task.metric.name
    if metric in ("top1", "top5", "perplexity"):
        logits = losses.logits_of if _gives_probabilities(student, name) else _unchanged
        return (
            lambda ours, _, labels: losses.cross_entropy(logits(ours[name]), _present(labels)),
            f"labels: cross-entropy of '{name}'",
        )
    if metric in ("mse", "psnr"):
        return (
            lambda ours, _, labels: losses.relative_error(ours[name], _present(labels).reshape(ours[name].shape)),
            f"labels: relative squared error of '{name}'",
        )
    raise UsageError(
        f"--loss labels: no gradient follows the metric {metric}; take --loss output, which needs no labels"
    )


def _gives_probabilities(model: ir.Model, output: str) -> bool:
    value = next(value for value in model.graph.outputs if value.name == output)
    producer = value.producer()
    return producer is not None and producer.op_type == "Softmax"


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def _present(labels: Tensor | None) -> Tensor:
    assert labels is not None, "read_samples refused a task without them"
    return labels
