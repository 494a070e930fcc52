# SPDX-License-Identifier: Apache-2.0
"""Every command and every Python example of the README runs, in the order in which a reader meets them.

Setting up (``python3 -m venv``, ``pip install``) is what ``.ci/run`` does; here the same lines run in this interpreter.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SETUP = re.compile(r"python3 -m venv \S+|\S*pip install .*|\S*pytest\b.*")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The shell commands without those that set up, one for each element."""
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in line.split(" && ")]
    return [part.replace(".venv/bin/", "") for part in parts if part and not SETUP.fullmatch(part)]


@pytest.fixture
def clone(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with the committed models, and an environment in which ``edgefold`` and ``python`` are ours."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, arguments in (("edgefold", "-m edgefold"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (tools / name).chmod(0o755)
    return tmp_path, {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "NO_COLOR": "1"}


def test_the_readme_sets_up_by_one_command_each() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert sum(line.startswith("python3 -m venv") and " compress " in line for line in lines) == 1
    assert sum(line.startswith("python3 -m venv") and line.endswith("pytest") for line in lines) == 1


@pytest.mark.slow
def test_every_example_of_the_readme_runs(clone: tuple[Path, dict[str, str]]) -> None:
    folder, environment = clone
    programs = [["bash", "-euc", command] for command in commands()]
    programs += [[sys.executable, "-W", "error", "-c", code] for code in blocks("python")]
    assert len(programs) > 5
    for program in programs:
        run = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{program[-1]}\n{run.stdout}\n{run.stderr}"
