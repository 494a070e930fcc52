# SPDX-License-Identifier: Apache-2.0
"""Reads a task's data: the arrays of an .npz or the columns of a CSV file, never anything that can run code."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from edgefold.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

# Against archives that unpack to more than any machine holds.
MAX_MEMBERS = 1024
MAX_TOTAL_BYTES = 16 << 30


@dataclass(frozen=True)
class TaskData:
    """The named arrays of one data file.

    Attributes:
        path: the file.
        names: the arrays (columns) it holds.
        columns: the CSV's columns, read at once; empty for .npz, whose arrays are read when asked for.
    """

    path: Path
    names: tuple[str, ...]
    columns: dict[str, np.ndarray[Any, Any]]

    def array(self, name: str, wanted_by: str) -> np.ndarray[Any, Any]:
        """The array ``name``; its first dimension counts the samples.

        Raises:
            UsageError: no such array, an array of Python objects, or a damaged member.
        """
        if name not in self.names:
            raise UsageError(f"{wanted_by} names the array '{name}'; {self.path} holds {', '.join(self.names)}")
        found = self.columns[name] if name in self.columns else _read_member(self.path, name)
        if found.ndim == 0:
            raise UsageError(f"{self.path}: the array '{name}' is a single number; its first dimension counts samples")
        return found


def open_data(path: Path) -> TaskData:
    """Opens a data file and lists its arrays.

    Raises:
        UsageError: the file cannot be read, is neither .npz nor .csv, or is damaged or absurdly large.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".csv"):
        raise UsageError(f"{path}: data of a task are an .npz or a .csv file, not '{suffix or path.name}'")
    try:
        return _open_npz(path) if suffix == ".npz" else _read_csv(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot read the task's data: {error.strerror or error}") from error


def _open_npz(path: Path) -> TaskData:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise UsageError(f"{path}: not an .npz file (a zip of .npy arrays); write it with numpy.savez") from error
    if len(members) > MAX_MEMBERS:
        raise UsageError(f"{path}: {len(members)} members; an .npz of a task has at most {MAX_MEMBERS}")
    total = sum(member.file_size for member in members)
    if total > MAX_TOTAL_BYTES:
        raise UsageError(f"{path}: would unpack to {total >> 30} GiB; at most {MAX_TOTAL_BYTES >> 30} GiB are read")
    names = tuple(member.filename.removesuffix(".npy") for member in members if member.filename.endswith(".npy"))
    if not names:
        raise UsageError(f"{path}: holds no .npy array; write it with numpy.savez")
    return TaskData(path, names, {})


def _read_member(path: Path, name: str) -> np.ndarray[Any, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as stream:
                _check_header(path, name, stream, member.file_size)
            with archive.open(member) as stream:
                return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except UsageError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"{path}: cannot read the array '{name}': {str(error).splitlines()[0]}") from error


def _check_header(path: Path, name: str, stream: IO[bytes], size: int) -> None:
    """Refuses pickled objects, and a header that declares more than the member holds (numpy would allocate it)."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(stream)
    if dtype.hasobject:
        raise UsageError(f"{path}: the array '{name}' holds pickled objects, which are never loaded; store numbers")
    declared = int(np.prod([int(size) for size in shape], dtype=object)) * dtype.itemsize
    if declared > size:
        raise UsageError(f"{path}: the array '{name}' declares {declared} bytes but holds {size}; the file is damaged")


def _read_csv(path: Path) -> TaskData:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a CSV file in UTF-8: {error}") from error
    rows = [row for row in rows if row]
    if not rows:
        raise UsageError(f"{path}: an empty CSV file; its first line must name the columns")
    header, body = [name.strip() for name in rows[0]], rows[1:]
    if len(set(header)) != len(header):
        raise UsageError(f"{path}: two columns have the same name in the header {', '.join(header)}")
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise UsageError(f"{path}, row {number}: {len(row)} fields where the header names {len(header)}")
    columns = {name: _column([row[index] for row in body]) for index, name in enumerate(header)}
    return TaskData(path, tuple(header), columns)


def _column(texts: list[str]) -> np.ndarray[Any, Any]:
    for kind in (np.int64, np.float64):
        try:
            return np.array(texts, dtype=str).astype(kind)
        except ValueError:
            continue
    return np.array(texts, dtype=str)
