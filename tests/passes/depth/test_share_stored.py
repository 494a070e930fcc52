# SPDX-License-Identifier: Apache-2.0
"""A shared matrix is one tensor wherever it goes: in the file, in the memory of ONNX Runtime, in training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import weights
from residual_stacks import stack

from edgefold.files.loading import load_model
from edgefold.files.saving import save_model
from edgefold.passes import Context, ShareWeights

WIDTH, HIDDEN, BLOCKS = 512, 1024, 6
SAVED = 4 * 4 * 2 * WIDTH * HIDDEN  # bytes: of five blocks that share, four have no weights of their own
RESIDENT = """
import ctypes, sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"x": numpy.zeros((4, int(sys.argv[2])), numpy.float32)})
ctypes.CDLL(None).malloc_trim(0)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")))
"""


def untied() -> ir.Model:
    return stack(BLOCKS, width=WIDTH, hidden=HIDDEN)


def tied() -> ir.Model:
    model = untied()
    ShareWeights(groups=((1, 2, 3, 4, 5),), source="first", refits=0).rewrite(model, Context())
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stored")
    for name, model in (("untied", untied()), ("tied", tied())):
        save_model(model, folder / f"{name}.onnx")
    return folder / "untied.onnx", folder / "tied.onnx"


def test_the_file_shrinks_by_what_is_shared(files: tuple[Path, Path]) -> None:
    before, after = (path.stat().st_size for path in files)
    assert before - after == pytest.approx(SAVED, rel=1e-3)


def test_the_tie_survives_reading_and_writing(files: tuple[Path, Path], tmp_path: Path) -> None:
    loaded = load_model(files[1]).model
    assert len(list(loaded.graph.initializers["up1"].uses())) == 5
    save_model(loaded, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").stat().st_size == pytest.approx(files[1].stat().st_size, rel=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_onnx_runtime_shrinks_with_the_file(files: tuple[Path, Path]) -> None:
    """True from ONNX Runtime 1.21 on, which keeps one packed copy of equal weights; the bound is loose."""

    def resident(path: Path) -> int:
        told = subprocess.run(
            [sys.executable, "-c", RESIDENT, str(path), str(WIDTH)], capture_output=True, text=True, check=True
        )
        return 1024 * int(told.stdout)

    before, after = map(resident, files)
    assert before - after > 0.6 * SAVED


def test_training_adds_up_the_gradients_of_all_uses() -> None:
    torch = pytest.importorskip("torch", reason="healing needs torch")
    from edgefold.heal.graph_module import GraphModule

    apart, shared = stack(4), stack(4)
    for name in ("up", "down"):
        array = apart.graph.initializers[f"{name}1"].const_value.numpy()  # type: ignore[union-attr]
        apart.graph.initializers[f"{name}2"].const_value = ir.tensor(array.copy(), name=f"{name}2")
    ShareWeights(groups=((1, 2),), source="first", refits=0).rewrite(shared, Context())
    gradients = []
    for model in (apart, shared):
        module = GraphModule(model)
        module({"x": torch.from_numpy(weights(16, 32, seed=3))})["y"].square().sum().backward()
        gradients.append({name: parameter.grad.numpy() for name, parameter in module.named_parameters()})
    parts, whole = gradients
    assert "up2" not in whole
    for name in ("up", "down"):
        np.testing.assert_allclose(whole[f"{name}1"], parts[f"{name}1"] + parts[f"{name}2"], rtol=1e-4, atol=1e-5)
