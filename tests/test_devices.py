# SPDX-License-Identifier: Apache-2.0
"""Caches of devices: from files, and from what Linux tells of this machine."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from edgefold.errors import UsageError
from edgefold.measuring import devices
from edgefold.passes.fusion.cost import TYPICAL


@pytest.mark.parametrize("path", sorted(devices.folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_every_device_file_has_growing_caches(path: Path) -> None:
    found = devices.device(path.stem)
    sizes = [level.bytes for level in found.levels]
    assert found.name == path.stem
    assert sizes == sorted(sizes)
    assert sizes[-1] == math.inf


def test_a_core_has_its_share() -> None:
    assert devices.device("raspberry-pi-5").levels[2].bytes == 512 << 10
    assert devices.device("epyc-9004").levels[2].bytes == 4 << 20


def test_an_unknown_device_names_the_known_ones() -> None:
    known = "local, epyc-9004, raspberry-pi-4, raspberry-pi-5"
    with pytest.raises(UsageError, match=f"device 'pi' is not known; expected {known}"):
        devices.device("pi")


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3})
    monkeypatch.setattr(devices, "SYSFS", tmp_path)
    assert devices.device("local") is TYPICAL
    caches = [("Data", 1, "48K", "2"), ("Instruction", 1, "32K", "2"), ("Unified", 2, "2048K", "0-3,6")]
    for number, (kind, level, size, shared) in enumerate(caches):
        folder = tmp_path / "cpu2" / "cache" / f"index{number}"
        folder.mkdir(parents=True)
        for name, text in (("type", kind), ("level", level), ("size", size), ("shared_cpu_list", shared)):
            (folder / name).write_text(f"{text}\n")
    levels = devices.device("local").levels
    assert [(level.name, level.bytes) for level in levels[:-1]] == [("L1", 48 << 10), ("L2", 1 << 20)]
