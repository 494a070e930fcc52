# SPDX-License-Identifier: Apache-2.0
"""External data never lie outside the model's folder, whatever the path says and whatever links stand in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from edgefold.errors import ModelError
from edgefold.files.confine import confined, external_range

PARTS = ("..", ".", "", "folder", "folder_out", "w.bin", "link_out", "link_in", "secret", "C:", "~")


def external(location: str, **entries: str) -> TensorProto:
    """A tensor whose bytes lie elsewhere."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def furnish(root: Path) -> Path:
    """A model's folder with files, links that stay inside, and links that lead out."""
    root = root.resolve()
    folder, outside = root / "model", root / "outside"
    (folder / "folder").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_bytes(bytes(8))
    for name in ("w.bin", "folder/w.bin", "onnx::MatMul_12", "..w", "w:0"):
        (folder / name).write_bytes(bytes(8))
    (folder / "link_in").symlink_to("folder/w.bin")
    (folder / "link_out").symlink_to(outside / "secret")
    (folder / "folder_out").symlink_to(outside)
    (folder / "loop").symlink_to("loop")
    (folder / "hard").hardlink_to(outside / "secret")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("confined"))


def refused(path: str, folder: Path) -> str | None:
    """The refusal of a path, or None when the file lies where it must."""
    try:
        found = confined(folder, path)
    except ModelError as error:
        return str(error)
    assert os.path.realpath(found) == str(found)
    assert found.is_relative_to(folder)
    assert found.is_file()
    return None


class TestPlaces:
    @pytest.mark.parametrize(
        ("location", "complaint"),
        [
            ("", "is not a file name"),
            ("a\nb", "is not a file name"),
            ("a\0b", "is not a file name"),
            ("/etc/passwd", "is absolute"),
            ("\\\\server\\share\\w", "is absolute"),
            ("C:\\w.bin", "is absolute"),
            ("C:/w.bin", "is absolute"),
            ("..", "has a '..'"),
            ("a/../../b", "has a '..'"),
            ("a\\..\\..\\b", "has a '..'"),
            ("nothing.bin", "is missing; put it beside the model file"),
            (".", "is not a regular file"),
            ("folder", "is not a regular file"),
            ("pipe", "is not a regular file"),
            ("link_out", "is a link that leads out of the model's folder; copy the files with the links resolved"),
            ("folder_out/secret", "is a link that leads out of the model's folder"),
            ("loop", "cannot be read"),
            ("hard", "has 2 hard links"),
            ("x" * 5000, "cannot be read: File name too long"),
        ],
    )
    def test_refused(self, location: str, complaint: str, folder: Path) -> None:
        with pytest.raises(ModelError) as caught:
            confined(folder, location)
        assert complaint in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300

    @pytest.mark.parametrize(
        "location", ["w.bin", "./w.bin", "folder/w.bin", "link_in", "onnx::MatMul_12", "..w", "w:0"]
    )
    def test_accepted(self, location: str, folder: Path) -> None:
        assert refused(location, folder) is None

    def test_a_model_folder_reached_through_a_link_is_fine(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "alias").symlink_to(folder)
        assert confined(tmp_path / "alias", "w.bin") == folder / "w.bin"

    @settings(max_examples=300, deadline=None)
    @given(parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=6), separator=st.sampled_from(["/", "\\", "//"]))
    def test_whatever_the_path_the_file_lies_inside_or_it_is_refused(
        self, parts: list[str], separator: str, folder: Path
    ) -> None:
        refused(separator.join(parts), folder)

    @settings(max_examples=200, deadline=None)
    @given(location=st.text(max_size=30))
    def test_any_text_is_refused_in_one_line(self, location: str, folder: Path) -> None:
        assert len((refused(location, folder) or "accepted").splitlines()) == 1


class TestRanges:
    @pytest.mark.parametrize(
        ("entries", "complaint"),
        [
            ({"offset": "-1"}, "offset '-1' is not a non-negative whole number"),
            ({"offset": "1_0"}, "offset '1_0' is not a non-negative whole number"),
            ({"offset": "٣"}, "offset '٣' is not a non-negative whole number"),
            ({"length": "0x8"}, "length '0x8' is not a non-negative whole number"),
            ({"length": "9" * 40}, "is not a non-negative whole number"),
            ({"length": "4"}, "is 4 bytes long, but dims and data type ask for 8"),
            ({"length": str(2**50)}, f"is {2**50} bytes long, but dims and data type ask for 8"),
            ({"offset": "4"}, "needs bytes 4 to 12 of 'w.bin', which has 8; the file is truncated"),
            ({"offset": str(2**62), "length": "8"}, "which has 8; the file is truncated"),
        ],
    )
    def test_refused(self, entries: dict[str, str], complaint: str, folder: Path) -> None:
        with pytest.raises(ModelError) as caught:
            external_range(external("w.bin", **entries), 8, folder)
        assert complaint in str(caught.value)

    def test_a_key_given_twice_is_refused(self, folder: Path) -> None:
        tensor = external("w.bin")
        tensor.external_data.add(key="location", value="../secret")
        with pytest.raises(ModelError, match="external data gives 'location' twice"):
            external_range(tensor, 8, folder)

    def test_a_missing_location_is_refused(self, folder: Path) -> None:
        with pytest.raises(ModelError, match="external data without a location"):
            external_range(TensorProto(data_location=TensorProto.EXTERNAL), 8, folder)

    @settings(deadline=None)
    @given(offset=st.integers(0, 40), length=st.integers(0, 40))
    def test_a_range_is_accepted_exactly_when_the_file_has_it(self, offset: int, length: int, folder: Path) -> None:
        tensor = external("w.bin", offset=str(offset))
        if offset + length <= 8:
            found = external_range(tensor, length, folder)
            assert (found.path.name, found.offset, found.length) == ("w.bin", offset, length)
        else:
            with pytest.raises(ModelError, match="which has 8"):
                external_range(tensor, length, folder)
