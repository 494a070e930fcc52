# SPDX-License-Identifier: Apache-2.0
"""Write a model or a whole output folder so that it is either there, complete, or not there at all.

Everything is written under a temporary name in the place where it will stand, flushed to the disk, and renamed. On any
exception, Ctrl-C included, what was written so far is removed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from edgefold.errors import UsageError
from edgefold.files.external import EXTERNAL_ABOVE, weight_bytes, weight_values, write_tensors
from edgefold.files.serialization import write_model

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def save_model(model: ir.Model, path: Path, external: bool | None = None, *, durable: bool = True) -> None:
    """Write a model to a file, atomically; the model itself is not changed.

    The IR version written is 10 unless the model's data types ask for a newer one.

    Args:
        model: its tensors may lie in memory or in other files, from which they are copied one by one.
        path: the ``.onnx`` file. With external data, ``<path>.data`` is written beside it, tensors aligned to 64 bytes.
        external: weights beside the model (True), inside it (False), or beside it above 64 MB (None).
        durable: wait until the disk has it all; False is for files that only this process reads.

    Raises:
        UsageError: the place cannot be written, the disk is full, or the file that the model's own weights are read
            from would be replaced.
        ModelError: with ``external=False``, the model is too large for one protobuf.
    """
    path = Path(path)
    if external is None:
        external = weight_bytes(model) > EXTERNAL_ABOVE
    data = path.with_name(path.name + ".data")
    if external:
        _refuse_own_source(model, data)
    with _disk_errors(path), _temporary(path) as partial, _temporary(data) as partial_data:
        layout = {}
        if external:
            with _create(partial_data, durable) as file:
                layout = write_tensors(model, file)
        with _create(partial, durable) as file:
            write_model(model, layout, data.name, file)
        if external:  # first, because a model must never stand there without its data
            partial_data.replace(data)
        partial.replace(path)
        if durable:
            _flush(path.parent)


@contextmanager
def output_folder(path: Path, force: bool) -> Iterator[Path]:
    """Fill a folder that appears only when it is complete.

    Args:
        path: the folder to make; missing parents are made too.
        force: replace an existing folder, if it is empty or an output of ``compress``; other folders are never
            replaced, so a slip of the hand cannot delete a home directory.

    Yields:
        A temporary folder beside ``path``, renamed to it when the block ends, removed when the block raises.

    Raises:
        UsageError: ``path`` exists (and ``force`` does not apply), or cannot be written.
    """
    path = Path(path)
    check_vacant(path, force)
    partial = _beside(path)
    try:
        with _disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
        with _full_disk(path):
            yield partial
        with _disk_errors(path):
            for file in partial.rglob("*"):
                _flush(file)
            check_vacant(path, force)
            if path.exists():
                _exchange(partial, path)
            else:
                partial.rename(path)
            _flush(path.parent)
    finally:
        # Now either the unfinished output or the replaced one; errors here must not hide the reason for being here.
        shutil.rmtree(partial, ignore_errors=True)


def refuse_to_replace(folder: Path, used: Iterable[Path]) -> None:
    """Check that a folder that may be replaced, and removed then, holds no file that is needed.

    Args:
        folder: that would be replaced.
        used: files that are read, or are to stay; listed only where the folder exists.

    Raises:
        UsageError: one of them lies inside.
    """
    if not folder.exists():
        return
    place = folder.resolve()
    for path in used:
        if path.resolve().is_relative_to(place):
            raise UsageError(f"{folder}: holds {path}, which would be lost; choose another -o, or move the file")


def check_vacant(path: Path, force: bool) -> None:
    """Check that a folder can be made in this place.

    Raises:
        UsageError: something stands there that ``output_folder`` would not replace.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise UsageError(f"{path}: exists already; choose another -o, or --force to replace it")
    if path.is_symlink() or not path.is_dir():
        raise UsageError(f"{path}: is not a folder, and --force replaces only folders that compress wrote")
    names = {entry.name for entry in path.iterdir()}
    if names and not ("model.onnx" in names and names & {"manifest.json", "repro"}):
        raise UsageError(
            f"{path}: --force replaces only folders that compress wrote, and this one has no model.onnx with a "
            "manifest.json; choose another -o"
        )


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders: in one step where the system can (Linux), else by way of a third name."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 and renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
        return
    aside = _beside(old)
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:
        aside.rename(old)
        raise
    aside.rename(new)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    partial = _beside(path)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _create(path: Path, durable: bool) -> Iterator[BinaryIO]:
    """A new file, if durable on the disk when the block ends; a link that stands in its place is not followed."""
    with path.open("xb") as file:
        yield file
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _flush(path: Path) -> None:
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        with _full_disk(path):
            yield
    except OSError as error:
        reason = f"{error.strerror or error} ({error.filename})" if error.filename else error.strerror or error
        raise UsageError(f"{path}: cannot be written: {reason}; choose another place") from error


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UsageError(
            f"{path}: cannot be written: the disk is full or the file size is limited; free some space"
        ) from error


def _refuse_own_source(model: ir.Model, data: Path) -> None:
    for value in weight_values(model):
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and os.path.realpath(tensor.path) == os.path.realpath(data):
            raise UsageError(f"{data}: is the file that the model's weights are read from; write to another place")
