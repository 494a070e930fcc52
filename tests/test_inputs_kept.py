# SPDX-License-Identifier: Apache-2.0
"""Nothing that a call reads lies in a folder that ``--force`` replaces."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.errors import UsageError
from edgefold.files.saving import refuse_to_replace
from edgefold.scoring.task import load_task
from edgefold.scoring.task_files import all_files

Command = Callable[..., Any]  # the fixture `edgefold`
DIGITS = Path(__file__).resolve().parent.parent / "models" / "digits_cnn"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder that looks like an output of compress, with all that a call needs copied into it."""
    folder = tmp_path / "out"
    shutil.copytree(DIGITS, folder)
    (folder / "manifest.json").write_text("{}")
    (folder / "mine.yaml").write_text("steps: [simplify]\n")
    return folder


def compressed(edgefold: Command, output: Path, *more: object, model: Path = DIGITS / "model.onnx") -> Any:
    return edgefold("compress", "-m", model, "-o", output, "--force", "--dry-run", "-c", "w8", *more)


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        (("-d", "task.yaml"), "task.yaml"),
        (("-c", "mine.yaml"), "mine.yaml"),
        (("--save-config", "new.yaml"), "new.yaml"),
    ],
)
def test_files_of_a_call_are_not_replaced(more: tuple[str, str], kept: str, output: Path, edgefold: Command) -> None:
    outcome = compressed(edgefold, output, more[0], output / more[1])
    assert outcome.code == 2
    assert f"{output}: holds {output / kept}, which would be lost; choose another -o" in outcome.error_line
    assert not (output / "new.yaml").exists()
    # The near miss: the same call from elsewhere replaces the folder.
    elsewhere = output.with_name("elsewhere")
    shutil.copytree(output, elsewhere)
    assert compressed(edgefold, output, more[0], elsewhere / more[1]).code == 0


def test_the_model_is_not_replaced_nor_its_weights(output: Path, edgefold: Command) -> None:
    assert "holds" in compressed(edgefold, output, model=output / "model.onnx").error_line
    outside = output.with_name("outside.onnx")  # whose weights lie inside
    ir.save(ir.load(DIGITS / "model.onnx"), outside, external_data="out/weights.data", size_threshold_bytes=0)
    assert f"holds {output / 'weights.data'}" in compressed(edgefold, output, model=outside).error_line


def test_the_model_is_not_replaced_by_what_a_failed_step_leaves(output: Path, edgefold: Command) -> None:
    kept = output.with_name("next.failed")
    output.rename(kept)
    line = compressed(edgefold, kept.with_name("next"), model=kept).error_line
    assert f"{kept}: holds {kept / 'model.onnx'}" in line


def test_data_images_and_reference_of_a_task_are_listed(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("photo\na.png\nb.png\n")
    np.savez(tmp_path / "calib.npz", photo=np.array(["c.png"]))
    shutil.copy(DIGITS / "model.onnx", tmp_path / "reference.onnx")
    (tmp_path / "task.yaml").write_text(
        "data: data.csv\ninputs: {image: {images: photo}}\n"
        "metric: {name: cosine, reference: reference.onnx}\ncalibration: {data: calib.npz}\n"
    )
    listed = list(all_files(load_task(tmp_path / "task.yaml")))
    names = ["task.yaml", "data.csv", "a.png", "b.png", "calib.npz", "c.png", "reference.onnx"]
    assert [path.name for path in listed] == names
    with pytest.raises(UsageError, match="holds"):
        refuse_to_replace(tmp_path, listed)


def test_links_are_followed_and_names_that_begin_alike_are_not_inside(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "task.yaml").touch()
    (tmp_path / "link.yaml").symlink_to(tmp_path / "out" / "task.yaml")
    with pytest.raises(UsageError, match=r"link\.yaml, which would be lost"):
        refuse_to_replace(tmp_path / "out", [tmp_path / "link.yaml"])
    refuse_to_replace(tmp_path / "out", [tmp_path / "out2" / "task.yaml", tmp_path / "task.yaml"])
