# SPDX-License-Identifier: Apache-2.0
"""The benches of runtime/bench: floors by hand, and every one runs and says where."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime as ort
import pytest

from edgefold.measuring.machine import Machine
from edgefold.measuring.waterline.ceilings import ENVIRONMENT, Ceilings, Level

BENCH = Path(__file__).resolve().parents[2] / "runtime" / "bench"


RESULTS = BENCH.parents[1] / "docs" / "results"


def imported(folder: Path, name: str) -> ModuleType:
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
    assert Path(str(module.__file__)).parent == folder
    return module


@pytest.fixture(scope="module")
def setting() -> ModuleType:
    return imported(BENCH, "setting")


def made(setting: ModuleType) -> object:
    """A machine of 100 float and 400 8-bit GOP/s, with 1000 bytes at 10 GB/s and all else at 2 GB/s."""
    levels = (Level("L1", 1000, 10e9), Level("memory", None, 2e9))
    ceilings = Ceilings("vnni", 1e11, 4e11, levels)
    return setting.Setting(Machine("a", "b", (), 1), "vnni", {"ONNX Runtime": "1"}, 0.0, ceilings)


@pytest.mark.parametrize(
    ("work", "us", "bound"),
    [
        ((4e6, 1000), 10.0, "compute"),  # 4e6 / 4e11, and 0.1 us for the bytes
        ((4e6, 1000, "float"), 40.0, "compute"),
        ((4e6, 1000, "integer", 2), 5.0, "compute"),
        ((100, 1000), 0.1, "L1"),
        ((100, 1001), 0.5005, "memory"),  # a byte more than the cache holds
        ((0, 4000, "integer", 2), 1.0, "memory"),
    ],
)
def test_a_floor_is_the_longer_of_operations_and_bytes(
    setting: ModuleType, work: tuple[float, ...], us: float, bound: str
) -> None:
    found = made(setting).floor(*work)  # type: ignore[attr-defined]
    assert found.us == pytest.approx(us, rel=1e-12)
    assert found.bound == bound


@pytest.mark.parametrize(
    "command",
    [
        ["bench_conv1d.py", "--seconds", "0", "--only", "raw"],
        ["bench_depthwise.py", "--seconds", "0", "--only", "7x7x960"],
        ["bench_linear.py", "--seconds", "0", "--only", "gpt up"],
        ["bench_matmul.py", "--seconds", "0", "--shapes", "64x32", "--rows", "1,4"],
        ["bench_feed_forward.py", "--seconds", "0", "--shapes", "64x128", "--rows", "2"],
        ["bench_linear_codes.py", "--seconds", "0", "--widths", "64", "--rows", "3"],
        ["bench_norm.py", "--seconds", "0", "--shapes", "4x64"],
        ["bench_moe.py", "--seconds", "0", "--size", "64x64", "--experts", "4", "--rows", "2", "--threads", "1"],
        ["bench_threads.py", "--seconds", "0", "--only", "mobilenet"],
    ],
    ids=lambda command: command[0],
)
def test_a_bench_says_where_it_ran_and_how_near_the_floor(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, file = tmp_path / "ceilings.json", tmp_path / "rows.json"
    levels = [{"name": "memory", "bytes": None, "bytes_per_second": 2e9}]
    kept.write_text(json.dumps({"isa": "vnni", "float_operations": 1e11, "integer_operations": 4e11, "levels": levels}))
    monkeypatch.setenv(ENVIRONMENT, str(kept))
    line = [sys.executable, str(BENCH / command[0]), *command[1:], "--json", str(file)]
    printed = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    found = json.loads(file.read_text())
    assert found["setting"]["isa"] in printed
    assert set(found["setting"]["versions"]) == {"EdgeFold", "ONNX Runtime"}
    assert found["setting"]["machine"]["cpu"]
    assert found["setting"]["ceilings"]["integer_operations"] == 4e11
    assert found["rows"]
    for row in found["rows"]:
        fractions = row.get("of_floor", row.get("floor_fraction"))
        values = fractions.values() if isinstance(fractions, dict) else [fractions]
        assert all(value > 0 for value in values)


def test_blocks_count_their_operations_and_run_with_and_without_excitation() -> None:
    blocks = imported(BENCH, "residual_blocks")
    plain, excited = blocks.Block(4, 3, 8, "Relu"), blocks.Block(4, 3, 8, "SiLU", 5, 2)
    assert plain.operations == 2 * 16 * (3 * 8 + 8 * 9 + 8 * 3)
    assert excited.operations == 2 * (16 * (3 * 8 + 8 * 25 + 8 * 3) + 8 * 2 + 2 * 8)
    for block in (plain, excited):
        model = blocks.float_model(block)
        kinds = [node.op_type for node in model.graph.node]
        assert kinds.count("Conv") == (5 if block.squeeze else 3)
        assert kinds.count("GlobalAveragePool") == (1 if block.squeeze else 0)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        x = np.ones((1, 3, 4, 4), np.float32)
        assert session.run(None, {"x": x})[0].shape == x.shape


@pytest.mark.skipif(not RESULTS.is_dir(), reason="an sdist has no pages of results")
def test_the_page_of_kernels_shows_the_files_of_its_benches() -> None:
    blocks = imported(RESULTS, "kernels_blocks")
    assert "\n".join([*blocks.section(), blocks.BEHIND]) in (RESULTS / "kernels.md").read_text(encoding="utf-8")
