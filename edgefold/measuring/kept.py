# SPDX-License-Identifier: Apache-2.0
"""What was measured once on this machine, kept as a file in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from edgefold.measuring.machine import this_machine


def kept_file(environment: str, name: str, *circumstances: str) -> Path:
    """The file of a measurement: what the environment names, else one for this machine.

    Args:
        environment: variable that may name another file, such as one from another device.
        name: how the file's name begins.
        circumstances: what else the measurement depends on.
    """
    if given := os.environ.get(environment):
        return Path(given)
    machine = this_machine()
    identity = "|".join((machine.cpu, str(machine.features), *circumstances))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "edgefold" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.json"


def keep(path: Path, value: Any) -> None:
    """Writes a measurement as JSON, at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(value, indent=0), encoding="utf-8")
    partial.replace(path)
