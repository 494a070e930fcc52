# SPDX-License-Identifier: Apache-2.0
"""The files behind a task: what no output folder may replace, and by what ``--resume`` knows data that changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgefold.files.loading import load_model
from edgefold.provenance import file_sha256
from edgefold.scoring.task import Split, Task


def all_files(task: Task) -> Iterator[Path]:
    """Every file that scoring and calibrating read: the task, its data, their images, the reference model.

    Raises:
        UsageError, ModelError: the data or the reference model cannot be opened.
    """
    yield task.path
    yield from data_files(task, "eval")
    if task.has_calibration:
        yield from data_files(task, "calibration")
    if task.reference is not None:
        loaded = load_model(task.reference)
        yield from (loaded.path, *loaded.data_files)


def data_files(task: Task, split: Split) -> Iterator[Path]:
    """The data file of a split, and the images that it names for the task's inputs.

    Raises:
        UsageError: the data cannot be opened, or lack the column of images.
    """
    data = task.data(split)
    yield data.path
    for name, rule in task.rule.inputs.items():
        if rule.images is not None:
            for image in data.array(rule.images, f"{task.path}: input '{name}'"):
                yield data.path.parent / str(image)


def content_sha256(files: Iterable[Path]) -> str:
    """SHA-256 over the contents of files, whatever their names and however large (a gigabyte takes about a second).

    One that is not there counts as such: who reads it says so, in its own words.
    """
    digest = hashlib.sha256()
    for path in files:
        digest.update((file_sha256(path) if path.is_file() else "missing").encode())
    return digest.hexdigest()
