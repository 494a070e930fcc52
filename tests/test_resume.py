# SPDX-License-Identifier: Apache-2.0
"""By what ``--resume`` tells whether the state that it finds is of the same call."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.files.digest import model_sha256
from edgefold.files.loading import load_model
from edgefold.files.saving import save_model
from edgefold.passes import Context, Quantize
from edgefold.plan import make_plan
from edgefold.scoring.task import load_task
from edgefold.scoring.task_files import content_sha256, data_files

DIGITS = Path(__file__).resolve().parent.parent / "models" / "digits_cnn"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DIGITS, tmp_path / "digits"))


def fingerprint(folder: Path) -> str:
    plan = make_plan(
        folder / "model.onnx",
        "w8",
        folder / "task.yaml",
        settings=(),
        exclude=(),
        max_drop=None,
        max_size=None,
        seed=None,
    )
    return plan.fingerprint(load_model(folder / "model.onnx"))


@pytest.mark.parametrize("name", ["calib.npz", "test.npz"])
def test_other_data_under_the_same_name_are_another_call(name: str, folder: Path) -> None:
    path, before = folder / name, fingerprint(folder)
    os.utime(path, (0, 0))
    assert fingerprint(folder) == before  # the near miss: another time, the same content
    times, size = path.stat(), path.stat().st_size
    changed = bytearray(path.read_bytes())
    changed[size // 2] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(folder) != before  # of the same size and time


def test_images_that_data_name_belong_to_them(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("photo\na.png\n")
    (tmp_path / "task.yaml").write_text(
        "data: data.csv\ninputs: {image: {images: photo}}\nmetric: {name: top1, labels: y}\n"
    )

    def content() -> str:
        return content_sha256(data_files(load_task(tmp_path / "task.yaml"), "eval"))

    missing = content()
    (tmp_path / "a.png").write_bytes(b"1")
    one = content()
    (tmp_path / "b.png").write_bytes(b"1")
    assert content() == one  # which no row names
    (tmp_path / "a.png").write_bytes(b"2")
    assert len({missing, one, content()}) == 3


def strengthen(model: ir.Model) -> None:
    model.graph.node("scaled").attributes["alpha"] = ir.AttrFloat32("alpha", 0.2)


def change_constant(model: ir.Model) -> None:
    model.graph.node("two").attributes["value"] = ir.AttrTensor("value", ir.tensor(np.float32(3)))


def change_weight(model: ir.Model) -> None:
    model.graph.initializers["w"].const_value = ir.tensor(np.full((8, 8), 2, np.float32), name="w")


def read_other(model: ir.Model) -> None:
    model.graph.node("sum").replace_input_with(0, model.graph.inputs[0])


def model() -> ir.Model:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[n, 8] x) => (float[n, 8] y) {
      [two] c = Constant <value = float {2}> ()
      [product] m = MatMul (x, w)
      [scaled] s = LeakyRelu <alpha = 0.1> (m)
      [sum] y = Add (s, c)
    }"""
    return ir.from_onnx_text(text, initializers=[ir.tensor(np.ones((8, 8), np.float32), name="w")])


@pytest.mark.parametrize("change", [strengthen, change_constant, change_weight, read_other])
def test_a_model_that_computes_something_else_has_another_hash(change: Callable[[ir.Model], None]) -> None:
    changed = model()
    change(changed)
    assert model_sha256(model()) == model_sha256(model().clone())
    assert model_sha256(changed) != model_sha256(model())


@pytest.mark.parametrize("external", [False, True])
def test_a_saved_model_has_the_hash_it_had(external: bool, tmp_path: Path) -> None:
    """With functions, packed weights and attributes that a pass wrote in double precision."""
    quantized = load_model(DIGITS / "model.onnx").model.clone()
    Quantize(rounding="nearest", weights=4).rewrite(quantized, Context())
    save_model(quantized, tmp_path / "model.onnx", external)
    assert quantized.functions
    assert model_sha256(load_model(tmp_path / "model.onnx").model) == model_sha256(quantized)
