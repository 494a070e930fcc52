# SPDX-License-Identifier: Apache-2.0
"""Where the compiled runtime lies, what it exports and needs, and what `doctor` learns from it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgefold
import edgefold.runtime
from edgefold.errors import EdgefoldError
from edgefold.runtime import kernels, ops_library

DIGITS = Path(__file__).parents[2] / "models" / "digits_cnn" / "model.onnx"


@pytest.fixture
def library() -> Path:
    try:
        return ops_library()
    except EdgefoldError as missing:
        pytest.skip(str(missing))


def readelf(option: str, library: Path) -> str:
    tool = shutil.which("readelf")
    if tool is None:
        pytest.skip("no readelf here")
    return subprocess.run([tool, option, "--wide", str(library)], capture_output=True, text=True, check=True).stdout


def test_the_library_exports_one_symbol(library: Path) -> None:
    exported = re.findall(r"GLOBAL\s+DEFAULT\s+\d+\s+(\S+)", readelf("--dyn-syms", library))
    assert exported == ["RegisterCustomOps"]


def test_the_library_needs_neither_onnxruntime_nor_a_cpp_runtime(library: Path) -> None:
    needed = re.findall(r"NEEDED\).*\[(.+)\]", readelf("--dynamic", library))
    assert not [name for name in needed if "onnxruntime" in name or "stdc++" in name]


def test_segments_are_aligned_for_16_kb_pages(library: Path) -> None:
    alignments = re.findall(r"LOAD.*0x([0-9a-f]+)$", readelf("--program-headers", library), re.MULTILINE)
    assert alignments
    assert all(int(alignment, 16) >= 0x4000 for alignment in alignments)


def test_the_library_stays_when_its_last_session_goes(library: Path) -> None:
    program = (
        "import sys, onnxruntime as ort\n"
        "options = ort.SessionOptions()\n"
        "options.register_custom_ops_library(sys.argv[1])\n"
        "del options\n"
        "print(sys.argv[1] in open('/proc/self/maps').read())\n"
    )
    if not Path("/proc/self/maps").exists():
        pytest.skip("no list of what is loaded here")
    command = [sys.executable, "-c", program, str(library.resolve())]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


def test_kernels_lists_every_family_with_one_chosen() -> None:
    pytest.importorskip("edgefold._kernels", reason="the compiled module edgefold._kernels is not built")
    rows = kernels()
    for family in {row.family for row in rows}:
        mine = [row for row in rows if row.family == family]
        assert mine[-1].name == f"{family}_reference"
        assert [row.supported for row in mine if row.chosen] == [True]


def test_a_missing_library_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(edgefold.runtime, "_package_folders", lambda: [tmp_path])
    with pytest.raises(EdgefoldError, match=r"libedgefold_ops\.so is missing from the package; install .*pip install"):
        ops_library()


def test_an_open_batch_gives_no_warning_in_a_session_of_default_options(library: Path, tmp_path: Path) -> None:
    edgefold.compress(DIGITS, tmp_path / "out", "w8")
    program = (
        "import sys, numpy as np, onnxruntime as ort\n"
        "options = ort.SessionOptions()\n"
        "options.register_custom_ops_library(sys.argv[2])\n"
        "session = ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])\n"
        "print(session.run(None, {'image': np.zeros((2, 1, 8, 8), np.float32)})[0].shape)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out" / "model.onnx"), str(library)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "(2, 10)\n"
    assert ran.stderr == ""
