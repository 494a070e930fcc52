# SPDX-License-Identifier: Apache-2.0
"""Keep the external data of a model inside the model's folder.

A tensor of an ONNX file may say "my bytes are in that other file, from this offset". The name comes from whoever wrote
the model, so it is treated as hostile: only a regular file inside the model's folder is accepted, whatever links
stand on the way to it, and only a range of bytes that the file has.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from onnx import TensorProto

from edgefold.errors import ModelError
from edgefold.files.quoting import quoted

_DECIMAL = re.compile(r"[0-9]{1,19}", re.ASCII)


@dataclass(frozen=True)
class ExternalRange:
    """Where the bytes of an external tensor lie: ``path`` is real (no links), ``offset`` and ``length`` in bytes."""

    path: Path
    offset: int
    length: int


def confined(folder: Path, location: str) -> Path:
    """The real path of an external data file.

    Args:
        folder: the folder of the model file.
        location: the path as it stands in the model, to be relative to ``folder``.

    Raises:
        ModelError: the path is empty, absolute, has a ``..``, leads out of the folder by a link, is missing, is not a
            regular file or cannot be read, or the file has several hard links (one of them may lie elsewhere).
    """
    name = quoted(location)
    if not location or any(ord(character) < 32 for character in location):
        raise ModelError(f"external data path {name} is not a file name; expected a path relative to the model")
    if location.startswith(("/", "\\")) or PureWindowsPath(location).is_absolute():
        raise ModelError(f"external data path {name} is absolute; expected a path relative to the model")
    if ".." in re.split(r"[/\\]", location):
        raise ModelError(f"external data path {name} has a '..'; keep the data inside the model's folder")
    base = Path(os.path.realpath(folder))
    path = Path(os.path.realpath(base / location))
    if not path.is_relative_to(base):
        raise ModelError(
            f"external data path {name} is a link that leads out of the model's folder; copy the files with the links "
            "resolved (cp -rL)"
        )
    _check_plain_file(path, name)
    return path


def _check_plain_file(path: Path, name: str) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise ModelError(f"external data file {name} is missing; put it beside the model file") from None
    except OSError as error:
        raise ModelError(f"external data file {name} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"external data path {name} is not a regular file")
    if status.st_nlink > 1:
        # onnx and onnx_ir refuse it too: a hard link may be a second name of any file on the same disk.
        raise ModelError(
            f"external data file {name} has {status.st_nlink} hard links, so it may also lie outside the model's "
            "folder; copy it (cp without -l)"
        )
    if not os.access(path, os.R_OK):
        raise ModelError(f"external data file {name} cannot be read: permission denied")


def external_range(tensor: TensorProto, expected: int, folder: Path) -> ExternalRange:
    """Where the bytes of ``tensor`` lie, all checked.

    Args:
        tensor: a tensor with ``data_location`` EXTERNAL.
        expected: bytes that its dims and data type ask for.
        folder: the folder of the model file.

    Raises:
        ModelError: see :func:`confined`; or the range is malformed, is not ``expected`` bytes long, or ends beyond the
            file.
    """
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in entries:  # readers differ in which of the two they take
            raise ModelError(f"external data gives {quoted(entry.key)} twice")
        entries[entry.key] = entry.value
    if "location" not in entries:
        raise ModelError("external data without a location; expected the name of a file beside the model")
    path = confined(folder, entries["location"])
    offset = _decimal(entries, "offset", default=0)
    length = _decimal(entries, "length", default=expected)
    if length != expected:
        raise ModelError(f"external data is {length} bytes long, but dims and data type ask for {expected}")
    size = path.stat().st_size
    if offset + length > size:
        raise ModelError(
            f"external data needs bytes {offset} to {offset + length} of {quoted(entries['location'])}, which has "
            f"{size}; the file is truncated or belongs to another model"
        )
    return ExternalRange(path, offset, length)


def _decimal(entries: dict[str, str], key: str, *, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not _DECIMAL.fullmatch(text):
        raise ModelError(f"external data {key} {quoted(text)} is not a non-negative whole number")
    return int(text)
