# SPDX-License-Identifier: Apache-2.0
"""Nodes with one thing wrong are refused with a message, or run within their memory: never a crash."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgefold.errors import EdgefoldError
from edgefold.runtime import ops_library

CASES = 30  # of every operator; `fuzz_boundary.py` takes any number, CONTRIBUTING says how under sanitizers


def test_malformed_nodes_never_crash() -> None:
    try:
        ops_library()
    except EdgefoldError as missing:
        pytest.skip(str(missing))
    command = [sys.executable, str(Path(__file__).with_name("fuzz_boundary.py")), "1000", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]} {done.stderr[-2000:]}"
    counts = {name: found for line in lines if line.startswith("{") for name, found in json.loads(line).items()}
    assert len(counts) == 16
    for name, found in counts.items():  # changes that harm and changes that do not
        assert min(found["ran"], found["refused"]) > 0, (name, found)
