# SPDX-License-Identifier: Apache-2.0
"""The verbs of the command line as functions: what a notebook calls, and what ``edgefold.cli`` prints.

Heavy modules are imported inside, so that each verb pays only for itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgefold.errors import UsageError

if TYPE_CHECKING:
    from edgefold.evaluate import Evaluation
    from edgefold.output_check import FolderVerdict
    from edgefold.report import Report
    from edgefold.reproducer import Reproduction

Path = str | os.PathLike[str]


def compress(model: Path, output: Path, recipe: Path = "w4", task: Path | None = None, **options: Any) -> Report:
    """Compress a model into an output folder; see ``edgefold.compression.compress`` for all options."""
    from edgefold.compression import compress as run

    return run(model, output, recipe, task, **options)


def evaluate(model: Path, task: Path, *, threads: int = 0) -> Evaluation:
    """Score a model on a task.

    Raises:
        UsageError, ModelError: task and model do not fit, or the model cannot be run.
    """
    from edgefold.evaluate import evaluate as run
    from edgefold.loading import load_model
    from edgefold.task import load_task

    parsed = load_task(task)
    return run(load_model(model).path, parsed, threads=threads)


def verify(folder: Path) -> FolderVerdict:
    """Check an output folder: hashes, ONNX checker, stock ONNX Runtime against the library.

    Raises:
        UsageError: not an output folder.
        VerificationError: a check failed; names the file or node.
    """
    from edgefold.output_check import verify_folder

    return verify_folder(folder)


def repro(folder: Path) -> Reproduction:
    """Rerun a reproducer folder; raises VerificationError when the step fails here too."""
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
) -> Any:
    """Measure latency of models and of ONNX Runtime's own forms of the first, interleaved."""
    from edgefold.bench import bench as run

    raise UsageError(f"bench: {run} {models} {task} {shapes} {against} {device} {threads}")
