# SPDX-License-Identifier: Apache-2.0
"""Instructions of the kernels against the committed baseline, and the comparison that tells of a regression."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "runtime" / "bench" / "count_instructions.py"
TOLERANCE = 5  # percent: wider than by hand, for another C library copies and allocates in other instructions


@pytest.fixture(scope="module")
def counting() -> ModuleType:
    spec = importlib.util.spec_from_file_location("count_instructions", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def built() -> Path:
    """The program where `pip install -e .` builds it: build-dir of pyproject.toml."""
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return ROOT / "build" / f"{python}-{python}-{platform}" / "count_instructions"


def test_no_kernel_takes_more_instructions_than_the_baseline(counting: ModuleType) -> None:
    try:
        changes = counting.compare(counting.count(built()), counting.load(counting.BASELINE))
    except counting.UncountableError as error:
        pytest.skip(str(error))
    grown = [change for change in changes if change.fails(TOLERANCE)]
    assert not grown, counting.table(grown, TOLERANCE)


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        ({"gemm": 1000, "gemv": 500}, 0),
        ({"gemm": 1020, "gemv": 500}, 0),
        ({"gemm": 1021, "gemv": 100}, 1),
        ({"gemm": 1000}, 1),
        ({"gemm": 1000, "gemv": 500, "new": 1}, 1),
    ],
)
def test_exit_status(counting: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, counts, status) -> None:
    baseline = tmp_path / "baseline.json"
    counting.save(counting.Counts("avx2", {"gemm": 1000, "gemv": 500}), baseline)
    monkeypatch.setattr(counting, "count", lambda binary: counting.Counts("avx2", counts))
    assert counting.main(["--baseline", str(baseline)]) == status
    assert counting.main(["--baseline", str(baseline), "--update"]) == 0
    assert counting.load(baseline).calls == counts


def test_other_builds_are_not_compared(counting: ModuleType) -> None:
    with pytest.raises(counting.UncountableError, match=r"'avx2, compiler 12'.*'neon, compiler 14'"):
        counting.compare(counting.Counts("neon, compiler 14", {}), counting.Counts("avx2, compiler 12", {}))


def test_what_stands_in_the_way_is_one_line(counting: ModuleType, tmp_path: Path, capsys) -> None:
    assert counting.main(["--binary", str(tmp_path / "nothing")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def countable(family: Path) -> bool:
    """Whether callgrind, which knows no AVX-512, would count more than the reference."""
    return "EF_X86_KERNEL(kAvx2" in (family / "kernels.inc").read_text() or not list(family.glob("x86_*.cc"))


def test_every_family_is_counted(counting: ModuleType) -> None:
    folders = {path.parent for path in ROOT.glob("runtime/kernels/*/*.h") if path.stem == path.parent.name}
    families = {folder.name for folder in folders if not (folder / "kernels.inc").exists() or countable(folder)}
    counted = {name.split()[0] for name in counting.load(counting.BASELINE).calls}
    assert families - counted == {"peak"}  # a yardstick itself
