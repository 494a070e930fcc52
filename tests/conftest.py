# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the --slow switch, the folder of real models, seeded random numbers, modules beside them."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefold.cli import main

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(Path(__file__).parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real pretrained models and evaluation sets; a stranger's clone does not have them."""
    folder = Path(os.environ.get("EDGEFOLD_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real models here: set EDGEFOLD_DATA (looked in {folder})")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@dataclasses.dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error_line(self) -> str:
        """The error, which must be exactly one line and never a traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("edgefold: error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


@pytest.fixture
def edgefold(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command line in this process: ``edgefold("eval", "-m", path)`` gives exit code, stdout and stderr."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), streams.out, streams.err)

    return run
