# SPDX-License-Identifier: Apache-2.0
"""The caches of a device, from the machine itself or from a file of ``targets/devices``."""

from __future__ import annotations

import importlib.resources
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from edgefold.errors import UsageError
from edgefold.passes.fusion.cost import TYPICAL, TYPICAL_SPEEDS, Device, Level
from edgefold.scoring.strict_yaml import read_yaml

LOCAL = "local"
Name = Literal["L1", "L2", "L3"]
_NAMES: dict[str, Name] = {"1": "L1", "2": "L2", "3": "L3"}
SYSFS = Path("/sys/devices/system/cpu")


class _Cache(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data or unified cache, and how many cores share it."""

    name: Name
    kilobytes: int
    cores: int


class _DeviceFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    caches: tuple[_Cache, ...]


def device(name: str) -> Device:
    """The device of this name: "local", or that of ``targets/devices/<name>.yaml``.

    A core is given its share of a cache that it shares. Where the machine does not tell its caches, "local" is the
    typical device of `edgefold.passes.fusion.cost`.

    Raises:
        UsageError: there is no device of this name.
    """
    if name == LOCAL:
        caches = list(_local_caches(SYSFS))
        return _device(name, caches) if caches else TYPICAL
    files = {path.stem: path for path in folder().glob("*.yaml")}
    if name not in files:
        raise UsageError(f"device '{name}' is not known; expected {LOCAL}, {', '.join(sorted(files))}")
    return _device(name, read_yaml(files[name], _DeviceFile, "device file").caches)


def folder() -> Path:
    """Where the device files lie."""
    return Path(str(importlib.resources.files("edgefold") / "targets" / "devices"))


def _device(name: str, caches: Iterable[_Cache]) -> Device:
    levels = [
        Level(c.name, c.kilobytes * 1024 / c.cores, TYPICAL_SPEEDS.get(c.name, TYPICAL_SPEEDS["L3"])) for c in caches
    ]
    return Device(name, (*levels, Level("memory", math.inf, TYPICAL_SPEEDS["memory"])))


def _local_caches(sysfs: Path) -> Iterable[_Cache]:
    """The caches of the first core that this process may use, as Linux tells them."""
    allowed = os.sched_getaffinity(0)
    for cache in sorted((sysfs / f"cpu{min(allowed)}" / "cache").glob("index*")):
        kind, level, size, shared = (_text(cache / name) for name in ("type", "level", "size", "shared_cpu_list"))
        if kind in ("Data", "Unified") and level in _NAMES and size.endswith("K"):
            cores = len(allowed & set(_listed(shared))) or 1
            yield _Cache(name=_NAMES[level], kilobytes=int(size[:-1]), cores=cores)


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii").strip() if path.is_file() else ""


def _listed(text: str) -> Iterable[int]:
    """The numbers of "0-2,5"."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
