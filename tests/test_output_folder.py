# SPDX-License-Identifier: Apache-2.0
"""The output folder appears whole or not at all, and never takes the place of something it should not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edgefold.errors import UsageError
from edgefold.files import saving
from edgefold.files.saving import output_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_when_the_block_ends(tmp_path: Path) -> None:
    out = tmp_path / "parent" / "out"
    with output_folder(out, force=False) as partial:
        (partial / "model.onnx").write_text("new")
        assert partial.parent == out.parent
        assert not out.exists()
    assert names(out) == ["model.onnx"]
    assert names(out.parent) == ["out"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, SystemExit])
def test_it_does_not_appear_when_the_block_raises(failure: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(failure), output_folder(tmp_path / "out", force=False) as partial:  # noqa: PT012
        (partial / "sub").mkdir()
        (partial / "sub" / "model.onnx").write_text("half")
        raise failure
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_while_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"out: cannot be written: the disk is full"):  # noqa: SIM117
        with output_folder(tmp_path / "out", force=False):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


def earlier(folder: Path) -> Path:
    out = folder / "out"
    out.mkdir()
    (out / "model.onnx").write_text("old")
    (out / "manifest.json").write_text("{}")
    return out


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    out = earlier(tmp_path)
    with pytest.raises(UsageError, match=r"exists already; choose another -o, or --force to replace it"):  # noqa: SIM117
        with output_folder(out, force=False):
            pytest.fail("the block ran")
    assert names(tmp_path) == ["out"]


def test_force_replaces_an_output_of_compress(tmp_path: Path) -> None:
    out = earlier(tmp_path)
    with output_folder(out, force=True) as partial:
        (partial / "model.onnx").write_text("new")
        assert (out / "model.onnx").read_text() == "old"
    assert (out / "model.onnx").read_text() == "new"
    assert names(tmp_path) == ["out"]
    assert names(out) == ["model.onnx"]


def test_force_replaces_where_the_system_cannot_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving.ctypes, "CDLL", lambda name: object())
    test_force_replaces_an_output_of_compress(tmp_path)


def test_a_forced_run_that_fails_leaves_the_old_output(tmp_path: Path) -> None:
    out = earlier(tmp_path)
    with pytest.raises(KeyboardInterrupt), output_folder(out, force=True) as partial:  # noqa: PT012
        (partial / "model.onnx").write_text("half")
        raise KeyboardInterrupt
    assert (out / "model.onnx").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_force_never_deletes_a_folder_that_compress_did_not_write(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    (tmp_path / "link").symlink_to(home)
    for place, complaint in (
        ("home", "--force replaces only folders that compress wrote, and this one has no model.onnx"),
        ("link", "is not a folder, and --force replaces only folders"),
        ("home/thesis.tex", "is not a folder, and --force replaces only folders"),
    ):
        with pytest.raises(UsageError, match=complaint), output_folder(tmp_path / place, force=True):
            pytest.fail("the block ran")
    assert (home / "thesis.tex").read_text() == "years of work"


def test_force_takes_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with output_folder(tmp_path / "out", force=True) as partial:
        (partial / "model.onnx").write_text("new")
    assert names(tmp_path / "out") == ["model.onnx"]


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"), output_folder(tmp_path / "out", force=False):
        (tmp_path / "out").mkdir()
    assert names(tmp_path) == ["out"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"out: cannot be written: .*; choose another place"):  # noqa: SIM117
        with output_folder(tmp_path / "file" / "out", force=False):
            pytest.fail("the block ran")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written: Permission denied"):  # noqa: SIM117
        with output_folder(tmp_path / "out", force=False):
            pytest.fail("the block ran")


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import signal, sys, time
        from pathlib import Path
        from edgefold.files.saving import output_folder
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
        with output_folder(Path(sys.argv[1]), force=False) as partial:
            (partial / "model.onnx").write_text("half")
            sys.stdout.write("ready\\n")
            sys.stdout.flush()
            time.sleep(60)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert names(tmp_path) == []
