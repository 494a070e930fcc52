# SPDX-License-Identifier: Apache-2.0
"""The arm64 runtime under emulation: all kernels on three CPUs, and operators in arm64 ONNX Runtime, bit for bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import conv_oracle
import numpy as np
import one_node
import pytest
from conv_oracle import Geometry
from oracle import NO_SHIFTS, random_shifts, random_weights, shift_matmul

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "runtime" / "cross" / "run_arm64.sh"
CPUS = {"cortex-a53": {"neon"}, "cortex-a76": {"neon", "dotprod"}, "max": {"neon", "dotprod", "i8mm"}}
TOOLS = {
    "qemu-aarch64": "qemu-user",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "cmake": "cmake",
    "ninja": "ninja-build",
}
WHEEL = "onnxruntime==1.31.1"


def run_script(*arguments: str | Path) -> str:
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def arm64_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cross-compiled self-test and operator library."""
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs the Debian packages {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("arm64")
    run_script("build", folder)
    return folder


@pytest.fixture(scope="session")
def arm64_ort(arm64_build: Path) -> Path:
    """The same folder, with the driver and ONNX Runtime for arm64 beside."""
    wheels = arm64_build / "wheels"
    platforms = ("--platform=manylinux_2_28_aarch64", "--platform=manylinux_2_27_aarch64")
    only = ("--no-deps", "--only-binary=:all:", "--python-version=311", "--implementation=cp", "--abi=cp311")
    command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(wheels), *only, *platforms, WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        pytest.skip(f"the arm64 wheel of {WHEEL} could not be downloaded: {done.stderr.strip().splitlines()[-1]}")
    run_script("driver", arm64_build, next(wheels.glob("*.whl")))
    return arm64_build


@pytest.mark.parametrize("cpu", CPUS)
def test_kernels(arm64_build: Path, cpu: str) -> None:
    lines = run_script("selftest", arm64_build, cpu).splitlines()
    assert lines[-1].split(", ")[1] == "0 failed"
    for line in lines[:-1]:
        feature = line.split()[0].rpartition("_")[2]
        ran = "skipped" not in line
        assert ran == (feature == "reference" or feature in CPUS[cpu]), line


Case = tuple[bytes, np.ndarray, np.ndarray]  # model, input, expected output


def matmul_case(method: str, rows: int, low: int, x_scale: float, high: int | None = None) -> Case:
    rng = np.random.default_rng(rows)
    weights = random_weights(rng, 70, 37, 4, method)
    bias = rng.normal(size=37).astype(np.float32)
    x = rng.normal(size=(rows, 70)).astype(np.float32)
    shifts = random_shifts(rng, 70, low, high) if high else NO_SHIFTS
    high = high or (127 if low < 0 else 255)
    expected = shift_matmul(x, weights, bias, x_scale, low, high, shifts)
    return one_node.matmul(weights, bias, x_scale, low, high, shifts=shifts), x, expected


def conv_case(g: Geometry, low: int, high: int | None = None) -> Case:
    rng = np.random.default_rng(g.k)
    weights = random_weights(rng, g.k, g.out_channels, 4)
    bias = rng.normal(size=g.out_channels).astype(np.float32)
    x = rng.normal(size=(1, g.in_channels, *g.size)).astype(np.float32)
    shifts = random_shifts(rng, g.in_channels, low, high) if high else NO_SHIFTS
    high = high or (127 if low < 0 else 255)
    expected = conv_oracle.shift_conv(x, weights, bias, 0.02, low, high, g, shifts)
    return conv_oracle.model(weights, bias, 0.02, low, high, g, shifts), x, expected


CASES: dict[str, Callable[[], Case]] = {
    "matmul-dynamic": lambda: matmul_case("lut", 9, -127, 0.0),
    "matmul-one-row-static-u8": lambda: matmul_case("shift", 1, 0, 0.02),
    "matmul-shifted-s4": lambda: matmul_case("shift", 9, -7, 0.0, 7),
    "conv-shifted-u4": lambda: conv_case(Geometry(19, 32, (3, 3), (9, 9), pads=(1, 1, 1, 1)), 0, 15),
    "conv-3x3": lambda: conv_case(Geometry(16, 32, (3, 3), (9, 9), pads=(1, 1, 1, 1)), 0),
    "conv-depthwise": lambda: conv_case(Geometry(20, 20, (3, 3), (9, 9), pads=(1, 1, 1, 1), group=20), -127),
}


@pytest.mark.parametrize(
    ("name", "cpu"), [*((name, "max") for name in CASES), ("matmul-dynamic", "cortex-a53"), ("conv-3x3", "cortex-a76")]
)
def test_onnxruntime(arm64_ort: Path, name: str, cpu: str, tmp_path: Path) -> None:
    """Equal to numpy bit for bit, as x86 is in test_shift_matmul and test_shift_conv: so equal to x86."""
    proto, x, expected = CASES[name]()
    model, given, got = (tmp_path / file for file in ("model.onnx", "x.bin", "y.bin"))
    model.write_bytes(proto)
    x.tofile(given)
    run_script("ort", arm64_ort, cpu, model, given, got, *map(str, x.shape))
    np.testing.assert_array_equal(np.fromfile(got, np.float32).reshape(expected.shape), expected)


def test_driver_reports_errors(arm64_ort: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    done = subprocess.run(
        [SCRIPT, "ort", arm64_ort, "max", tmp_path / "broken.onnx", os.devnull, os.devnull, "1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "create session" in done.stderr
