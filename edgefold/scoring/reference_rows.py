# SPDX-License-Identifier: Apache-2.0
"""The outputs of a reference model on a task's samples, row by row, kept in memory for the next model to be scored."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgefold.files.loading import LoadedModel, load_model
from edgefold.interface import ModelInterface
from edgefold.scoring.task_files import content_sha256, data_files
from edgefold.session import make_session, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from edgefold.scoring.task import Split, Task

Array = np.ndarray[Any, Any]
Key = tuple[Any, ...]

# Of all references together; a longer output is computed again when it is wanted again.
CACHE_BYTES = 512 << 20
_cache: OrderedDict[Key, Array] = OrderedDict()


class ReferenceRows:
    """Hands out the reference's output rows in order, in portions that need not be the reference's own batches."""

    def __init__(self, blocks: Iterator[Array]) -> None:
        self._blocks = blocks
        self._left: Array | None = None

    def take(self, count: int) -> Array:
        """The next ``count`` rows."""
        while self._left is None or len(self._left) < count:
            block = next(self._blocks)
            self._left = block if self._left is None else np.concatenate([self._left, block])
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def reference_rows(model: Path | ir.Model, task: Task, split: Split, limit: int | None) -> ReferenceRows:
    """Runs ``model`` (in stock ONNX Runtime, as it is) over a split, lazily; a file's rows come from the cache.

    Raises:
        UsageError, ModelError: as `edgefold.scoring.evaluate.evaluate`.
    """
    if not isinstance(model, Path):
        return ReferenceRows(_blocks(model, task, split, limit))
    loaded = load_model(model)
    key = _key(loaded, task, split, limit)
    if key in _cache:
        _cache.move_to_end(key)
        return ReferenceRows(iter([_cache[key]]))
    return ReferenceRows(_remembering(key, _blocks(loaded.path, task, split, limit), task.samples(split, limit)))


def _blocks(model: Path | ir.Model, task: Task, split: Split, limit: int | None) -> Iterator[Array]:
    session = make_session(model, library=False)
    interface = ModelInterface.of(session)
    output = interface.output(task.metric.output, f"{task.path}: metric")
    for batch in task.batches(interface, split, limit):
        (value,) = run(session, [output.name], batch.feeds)
        yield batch.cut(np.asarray(value))


def _remembering(key: Key, blocks: Iterator[Array], samples: int) -> Iterator[Array]:
    """Passes blocks on, and caches them once all samples have gone by, if together they are small enough."""
    seen: list[Array] = []
    size = rows = 0
    for block in blocks:
        size, rows = size + block.nbytes, rows + len(block)
        if size <= CACHE_BYTES:
            seen.append(block)
        # Before the last block leaves: the taker asks for no more after it.
        if rows >= samples and size <= CACHE_BYTES:
            _store(key, np.concatenate(seen))
        yield block


def _store(key: Key, rows: Array) -> None:
    _cache[key] = rows
    while sum(one.nbytes for one in _cache.values()) > CACHE_BYTES:
        _cache.popitem(last=False)


def _key(model: LoadedModel, task: Task, split: Split, limit: int | None) -> Key:
    """Names the rows by the content of what they are made from: files change within one tick of their clock too."""
    return (model.sha256, content_sha256(data_files(task, split)), msgspec.json.encode(task.rule), split, limit)
