# SPDX-License-Identifier: Apache-2.0
"""Inspect --groups: what can go, what is held and by whom, as text, JSON and picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import onnx_ir as ir
import pytest

TEXT = """
<ir_version: 8, opset_import: ["" : 21]>
g (float[batch, 3, 6, 6] x, float[8, 3, 3, 3] k, float[4, 8, 1, 1] w) => (float[batch, 4, 4, 4] y) {
  [first] c = Conv(x, k)
  [relu] r = Relu(c)
  [second] y = Conv(r, w)
}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    model = ir.from_onnx_text(TEXT)
    for value in list(model.graph.inputs)[1:]:
        value.const_value = ir.tensor(np.ones(tuple(value.shape.numpy()), np.float32), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    ir.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_groups_and_what_holds_the_rest(path: Path, edgefold: Callable[..., Any]) -> None:
    outcome = edgefold("inspect", "-m", path, "--groups")
    assert outcome.code == 0
    for part in ("1 group of 8 units", "k:0", "channels", "first -> second", "graph output", "4 channels"):
        assert part in outcome.out
    document = json.loads(edgefold("inspect", "-m", path, "--groups", "--format", "json").out)
    (group,) = document["groups"]
    assert (group["units"], group["width"], group["exactness"]) == (8, 1, "exact")
    assert (group["writers"], group["readers"]) == (["first"], ["second"])
    assert group["macs"] == pytest.approx(7 / 8)  # every product of both layers runs over the eight channels
    assert document["barriers"][0]["channels"] == 4


def test_a_picture_shows_each_layer_once(path: Path, tmp_path: Path, edgefold: Callable[..., Any]) -> None:
    picture = tmp_path / "groups.svg"
    assert str(picture) in edgefold("inspect", "-m", path, "--groups", "--picture", picture).out
    root = ET.parse(picture).getroot()
    space = {"s": "http://www.w3.org/2000/svg"}
    texts = [element.text for element in root.findall("s:text", space)]
    assert texts[3:] == ["first", "second"]
    coloured = [one for one in root.findall("s:rect", space) if one.find("s:title", space) is not None]
    assert len({one.get("fill") for one in coloured}) == 1  # written by the first, read by the second
    assert len(coloured) == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--picture", "a.svg"], "add --groups"), (["--groups", "--picture", "a.png"], "ends in .svg")],
)
def test_a_wrong_picture_is_one_line(path: Path, edgefold: Callable[..., Any], flags: list[str], words: str) -> None:
    outcome = edgefold("inspect", "-m", path, *flags)
    assert outcome.code == 2
    assert words in outcome.error_line


def test_a_shape_that_the_model_cannot_take_is_refused(path: Path, edgefold: Callable[..., Any]) -> None:
    assert edgefold("inspect", "-m", path, "--groups", "--shape", "x=2x3x6x6").code == 0
    for shape in ("x=2x4x6x6", "x=3x6x6", "image=2x3x6x6"):
        outcome = edgefold("inspect", "-m", path, "--groups", "--shape", shape)
        assert (outcome.code, outcome.out) == (2, "")
        assert shape.split("=")[0] in outcome.error_line
