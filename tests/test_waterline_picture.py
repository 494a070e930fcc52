# SPDX-License-Identifier: Apache-2.0
"""The pictures of the waterline and of the efficiency gap can be read: no words run out or over others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from xml.etree import ElementTree as ET

import pytest

from edgefold.measuring.waterline.analysis import NodeRow, Waterline
from edgefold.measuring.waterline.ceilings import Ceilings, Level
from edgefold.measuring.waterline.gap import EfficiencyGap, gap_row
from edgefold.measuring.waterline.gap_picture import draw as draw_gap
from edgefold.measuring.waterline.picture import _LEGEND, draw

LEVELS = (Level("L1", 32768, 2e11), Level("L2", 2**20, 1e11), Level("memory", None, 2e10))
LETTER = 0.62  # width of a letter by its size, wider than DejaVu Sans is on average

Box = tuple[float, float, float, float]
Words = dict[str, tuple[float, str, Box]]


def node(number: int, operator: str, operations: int, bytes_: int, time: float) -> NodeRow:
    return NodeRow(
        f"/model/layers.{number}/a/long/name/MatMul", operator, operations, bytes_, operations / bytes_, "compute",
        time / 2, time, 0.5, None,
    )  # fmt: skip


def found(nodes: Sequence[NodeRow], integer: float = 4.6e11) -> Waterline:
    limits = Ceilings("vnni", 1.2e11, integer, LEVELS)
    time = sum(row.time_us for row in nodes)
    return Waterline("folder/model.onnx", {}, limits, tuple(nodes), (), time / 2, time)


def words(picture: str) -> list[tuple[str, Box]]:
    """The words of a picture that are not turned, and where they stand: left, top, right, bottom."""
    boxes = []
    for one in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text"):
        if one.get("transform") is None:
            size, x, y = (
                float(one.get(name, default)) for name, default in (("font-size", "12"), ("x", ""), ("y", ""))
            )
            width = LETTER * size * len(str(one.text))
            left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[one.get("text-anchor", "start")]
            boxes.append((str(one.text), (left, y - 0.7 * size, left + width, y)))
    return boxes


def collisions(boxes: Sequence[tuple[str, Box]]) -> list[tuple[str, str]]:
    return [
        (a, b)
        for (a, one), (b, other) in itertools.combinations(boxes, 2)
        if one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
    ]


FEED_FORWARD = [node(n, "ai.edgefold.FusedFeedForward", 20_000_000, 200_000, 80 + n / 10) for n in range(6)]
OTHERS = [node(10 + n, f"com.microsoft.SomeQuiteLongOperator{n}", 10**n, 10**5, 3.0) for n in range(5, 9)]
ALIKE = [node(20 + n, "Conv", 8_000_000 + 400_000 * n, 90_000 + 3_000 * n, 70 - n) for n in range(8)]


@pytest.mark.parametrize("nodes", [FEED_FORWARD, FEED_FORWARD + OTHERS, ALIKE, ALIKE + FEED_FORWARD, []])
@pytest.mark.parametrize("integer", [4.6e11, 1.25e11])
def test_no_words_lie_over_others_or_run_out(nodes: list[NodeRow], integer: float) -> None:
    picture = draw(found(nodes, integer))
    width, height = (float(one) for one in ET.fromstring(picture).get("viewBox", "").split()[2:])
    boxes = words(picture)
    assert not collisions(boxes)
    for text, (left, top, right, bottom) in boxes:
        assert left >= 0, text
        assert top >= 0, text
        assert right <= width, text
        assert bottom <= height, text
    assert all(box[2] < _LEGEND for text, box in boxes if text.startswith(("float ", "8-bit ")))


def test_equal_nodes_have_their_numbers_in_one_place() -> None:
    numbers = [text for text, box in words(draw(found(FEED_FORWARD))) if box[1] < 500 and box[0] < _LEGEND]
    assert "1-6" in numbers
    assert not {"1", "2", "3"} & set(numbers) - {"1"}  # 1 is a figure of the axis too


def test_operators_are_named_as_the_text_names_them() -> None:
    texts = [text for text, _ in words(draw(found(FEED_FORWARD + OTHERS)))]
    assert "ef.FusedFeedForward" in texts
    assert "ms.SomeQuiteLongOperator5" in texts


def test_more_operators_than_colours_are_others() -> None:
    nodes = [node(n, f"Operator{n}", 10**7, 10**5, 50.0 - n) for n in range(12)]
    texts = [text for text, _ in words(draw(found(nodes)))]
    assert [text for text in texts if text.startswith("Operator")] == [f"Operator{n}" for n in range(8)]
    assert "others" in texts


def test_the_gap_has_room_for_the_longest_operator() -> None:
    rows = []
    for place, operator in enumerate(("com.microsoft.SkipSimplifiedLayerNormalization", "Conv")):
        nodes = [node(0, operator, 10**7, 10**5, 123_456.0 / 10**place)]
        rows.append(gap_row(f"model{place}", "EdgeFold", found(nodes)))
    picture = draw_gap(EfficiencyGap(found([]).ceilings, tuple(rows)))
    width = float(ET.fromstring(picture).get("viewBox", "").split()[2])
    boxes = words(picture)
    assert not collisions(boxes)
    assert max(box[2] for _, box in boxes) <= width
    assert any("SkipSimplifiedLayerNormalization" in text for text, _ in boxes)
    assert math.isclose(rows[0].fraction, 0.5)
