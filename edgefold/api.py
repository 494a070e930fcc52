# SPDX-License-Identifier: Apache-2.0
"""The verbs of the command line as functions: what a notebook calls, and what ``edgefold.cli`` prints.

Heavy modules are imported inside, so that each verb pays only for itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefold.files.loading import LoadedModel
    from edgefold.heal.report import HealReport
    from edgefold.measuring.bench import Bench
    from edgefold.measuring.diff import Diff
    from edgefold.measuring.doctor import Diagnosis
    from edgefold.measuring.groups import GroupListing
    from edgefold.measuring.inspect import Inspection
    from edgefold.measuring.waterline.analysis import Waterline
    from edgefold.measuring.waterline.gap import EfficiencyGap
    from edgefold.output_check import FolderVerdict
    from edgefold.report import Report
    from edgefold.reproducer import Reproduction
    from edgefold.scoring.evaluate import Evaluation

Path = str | os.PathLike[str]


def compress(model: Path, output: Path, recipe: Path = "w4", task: Path | None = None, **options: Any) -> Report:
    """Compress a model into an output folder; see ``edgefold.compression.compress`` for all options."""
    from edgefold.compression import compress as run

    return run(model, output, recipe, task, **options)


def heal(student: Path, teacher: Path, task: Path, output: Path, **options: Any) -> HealReport | None:
    """Train a compressed model to do again what the original does; see ``edgefold.heal.command.heal`` for all options.

    Returns:
        The report; None in every process of ``torchrun`` but the first.
    """
    from edgefold.heal.command import heal as run

    return run(student, teacher, task, output, **options)


def evaluate(
    model: Path, task: Path, *, threads: int = 0, weight_bits: int | None = None, inputs: Sequence[str] = ()
) -> Evaluation:
    """Score a model on a task, at one of the weight widths that it stores; as it is by default.

    Args:
        model: an ONNX file or output folder.
        task: task file.
        threads: threads inside an operator; 0 leaves the choice to ONNX Runtime.
        weight_bits: the width.
        inputs: ``NAME=NUMBER`` for optional inputs, as in ``depth=3``.

    Raises:
        UsageError, ModelError: task and model do not fit, or the model cannot be run.
    """
    from edgefold.optional_inputs import parse_values
    from edgefold.scoring.evaluate import evaluate as run
    from edgefold.scoring.task import load_task
    from edgefold.weight_widths import at_width

    parsed, loaded = load_task(task), _loaded(model)
    config = at_width(loaded, weight_bits) if weight_bits is not None else None
    return run(loaded.path, parsed, threads=threads, config=config, values=parse_values(inputs))


def verify(folder: Path) -> FolderVerdict:
    """Check an output folder: hashes, ONNX checker, stock ONNX Runtime against the library.

    Args:
        folder: that ``compress`` or ``heal`` wrote.

    Raises:
        UsageError: not an output folder.
        VerificationError: a check failed; names the file or node.
    """
    from edgefold.output_check import verify_folder

    return verify_folder(folder)


def repro(folder: Path) -> Reproduction:
    """Rerun the step of a reproducer folder, on the model and the inputs that it failed on.

    Args:
        folder: ``repro`` in the folder ``<output>.failed`` that a failed ``compress`` leaves.

    Returns:
        The step and how many edits it makes, where it passes its checks here.

    Raises:
        UsageError: not a reproducer folder.
        VerificationError: the step fails here too.
    """
    from edgefold.reproducer import reproduce

    return reproduce(folder)


def bench(
    models: Sequence[Path] | Path,
    *,
    task: Path | None = None,
    shapes: Sequence[str] = (),
    against: Sequence[str] = (),
    device: str = "local",
    threads: int = 1,
    weight_bits: Sequence[int] = (),
    inputs: Sequence[str] = (),
) -> Bench:
    """Measure latency of models and of ONNX Runtime's own forms of the first, interleaved.

    Args:
        models: ONNX files or output folders.
        task: gives the batch and calibrates ``ort-int8``.
        shapes: ``INPUT=1x128`` for dynamic inputs where there is no task.
        against: any of ``ort-fp32``, ``ort-int8``, ``ort-int4``.
        device: ``local``.
        threads: threads inside an operator.
        weight_bits: widths at which models that store several are run; as they are by default.
        inputs: values of optional inputs, ``depth=3``; one row for each, on the models that have the input.

    Raises:
        UsageError, ModelError: wrong arguments, or a model that cannot be run.
    """
    from edgefold.measuring.bench import bench as run
    from edgefold.optional_inputs import parse_values
    from edgefold.random_feeds import parse_shapes
    from edgefold.scoring.task import load_task
    from edgefold.weight_widths import at_widths

    listed = [_loaded(model) for model in ([models] if isinstance(models, str | os.PathLike) else models)]
    return run(
        [loaded.path for loaded in listed],
        task=load_task(task) if task is not None else None,
        shapes=parse_shapes(shapes),
        against=against,
        device=device,
        threads=threads,
        widths=at_widths(listed, weight_bits),
        values=[parse_values([one]) for one in inputs],
    )


def inspect(model: Path, *, shapes: Sequence[str] = ()) -> Inspection:
    """Show operators, shapes, MACs, weights and bits of a model, and what quantize would skip.

    Args:
        model: an ONNX file or output folder.
        shapes: ``INPUT=1x128`` for dynamic inputs; without it what depends on their sizes is left open, and says so.

    Raises:
        UsageError: a shape of another form, for an input that there is not, or that the model cannot take.
        ModelError: the model cannot be read.
    """
    from edgefold.measuring.inspect import inspect as run
    from edgefold.random_feeds import parse_shapes

    return run(_loaded(model), parse_shapes(shapes))


def inspect_waterline(model: Path, *, shapes: Sequence[str] = (), picture: str | None = None) -> Waterline:
    """Run a model on random inputs, one thread, and set each node's time beside what this machine could do at best.

    Args:
        model: an ONNX file or output folder.
        shapes: ``INPUT=1x128`` for dynamic inputs.
        picture: an .svg file to write.

    Raises:
        UsageError: a dynamic dimension without a size, a shape that does not fit, or another ending than .svg.
        ModelError: the model cannot be read or run.
    """
    from edgefold.measuring.waterline.measure import waterline
    from edgefold.random_feeds import parse_shapes

    return waterline(_loaded(model), parse_shapes(shapes), picture)


def inspect_gaps(models: Sequence[Path], *, shapes: Sequence[str] = (), picture: str | None = None) -> EfficiencyGap:
    """Run several models as `inspect_waterline` does, and show how far each stands from what this machine could do.

    Args:
        models: ONNX files or output folders.
        shapes: ``INPUT=1x128`` for dynamic inputs, of the models that have the input.
        picture: an .svg file to write.

    Raises:
        UsageError: as `inspect_waterline`, or a shape for an input that none of the models has.
        ModelError: one of them cannot be read or run.
    """
    from edgefold.measuring.waterline.measure import efficiency_gap
    from edgefold.random_feeds import parse_shapes

    return efficiency_gap([_loaded(model) for model in models], parse_shapes(shapes), picture)


def inspect_groups(model: Path, *, shapes: Sequence[str] = (), picture: str | None = None) -> GroupListing:
    """List what prune-channels could remove from a model and what holds the rest.

    Args:
        model: an ONNX file or output folder; it runs twice, on small random inputs.
        shapes: ``INPUT=1x128`` for dynamic inputs.
        picture: an .svg file to write.

    Raises:
        UsageError: a shape that does not fit, or another ending than .svg.
        ModelError: the model cannot be read or run.
    """
    from edgefold.measuring.groups import list_groups
    from edgefold.random_feeds import parse_shapes

    return list_groups(_loaded(model), parse_shapes(shapes), picture)


def diff(a: Path, b: Path, *, task: Path | None = None, shapes: Sequence[str] = ()) -> Diff:
    """Compare two models on the same inputs: every output, and every layer that both have.

    Args:
        a: an ONNX file or output folder; differences are those from it.
        b: likewise.
        task: gives the inputs, its first batch; random ones without it.
        shapes: ``INPUT=1x128`` for dynamic inputs where there is no task.

    Raises:
        UsageError: the models take different inputs or share no output, or task or shapes do not fit them.
        ModelError: one of them cannot be read or run.
    """
    from edgefold.measuring.diff import diff as run
    from edgefold.random_feeds import parse_shapes
    from edgefold.scoring.task import load_task

    return run(_loaded(a), _loaded(b), task=load_task(task) if task is not None else None, shapes=parse_shapes(shapes))


def doctor() -> Diagnosis:
    """Tell which kernels run here, which versions are in use, and what is missing.

    Returns:
        The findings; a check that failed is one of them, with its way out, and not an exception.
    """
    from edgefold.measuring.doctor import doctor as run

    return run()


def _loaded(model: Path) -> LoadedModel:
    from edgefold.files.loading import load_model

    return load_model(model)
