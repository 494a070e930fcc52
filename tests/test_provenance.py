# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from edgefold.errors import UsageError, VerificationError
from edgefold.provenance import check_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "run.log").write_text("so far\n")
    write_manifest(tmp_path, model_path=Path("in.onnx"), model_sha256="00", task=None)
    return tmp_path


def test_an_untouched_folder_holds(folder: Path) -> None:
    assert set(check_manifest(folder)["files"]) == {"model.onnx", "report.json"}


def test_the_log_may_go_on(folder: Path) -> None:
    (folder / "run.log").write_text("more\n")
    check_manifest(folder)


def test_a_changed_byte_is_named(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"mOdel")
    with pytest.raises(VerificationError, match=r"model\.onnx: differs"):
        check_manifest(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "report.json").unlink()
    with pytest.raises(VerificationError, match=r"report\.json: missing"):
        check_manifest(folder)


def test_a_folder_without_a_manifest_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        check_manifest(tmp_path)


def test_a_manifest_that_is_none(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(VerificationError, match="not a manifest"):
        check_manifest(folder)
