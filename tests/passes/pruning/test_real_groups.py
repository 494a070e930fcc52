# SPDX-License-Identifier: Apache-2.0
"""The groups of real networks: what an expert would prune by hand is there, in one group each."""

from __future__ import annotations

import collections
from pathlib import Path

import onnx_ir as ir
import pytest

from edgefold.passes.pruning.dependencies import analyse
from edgefold.passes.pruning.groups import Dependencies, Exactness
from edgefold.passes.pruning.prepare import prepare
from edgefold.probing import probe


def analysed(folder: Path, name: str) -> Dependencies:
    path = folder / name
    if not path.exists():
        pytest.skip(f"no {name} in EDGEFOLD_DATA")
    model = ir.load(path)
    ties = prepare(model)
    return analyse(model, probe(model), ties)


def sizes(found: Dependencies) -> dict[tuple[int, int], int]:
    """(units, width) -> number of groups."""
    return dict(collections.Counter((group.size, group.width) for group in found.groups))


@pytest.mark.parametrize("exporter", ["model", "model_dynamo"])
def test_a_cifar_resnet_has_its_stages_and_its_inner_channels(data_folder: Path, exporter: str) -> None:
    """Nine inner widths a stage; the streams: 16 channels of all stages, 16 that the second adds, 32 the third."""
    found = analysed(data_folder, f"cifar_resnet56/{exporter}.onnx")
    assert sizes(found) == {(16, 1): 9 + 1 + 1, (32, 1): 9 + 1, (64, 1): 9}
    assert [barrier.channels for barrier in found.barriers] == [10]


def test_minilm_has_heads_and_neurons(data_folder: Path) -> None:
    found = analysed(data_folder, "minilm/model.onnx")
    assert sizes(found) == {(12, 32): 6, (32, 12): 12, (1536, 1): 6}
    assert all(group.exactness == Exactness.EXACT for group in found.groups)


def test_mobilenet_v2_is_free_but_for_its_classes(data_folder: Path) -> None:
    found = analysed(data_folder, "imagenet_mobilenetv2/model.onnx")
    assert sum(group.size for group in found.groups) == 9128
    assert [barrier.channels for barrier in found.barriers] == [1001]


def test_a_quantized_model_is_refused_with_advice(data_folder: Path) -> None:
    found = analysed(data_folder, "imagenet_mobilenetv2/model_qdq_int8.onnx")
    assert found.groups == ()
    assert {barrier.why for barrier in found.barriers} >= {"quantized already; prune the float model, then quantize"}


@pytest.mark.parametrize("exporter", ["model", "model_dynamo"])
def test_both_exports_of_a_language_model_have_the_same_groups(data_folder: Path, exporter: str) -> None:
    found = analysed(data_folder, f"gpt_charlm/{exporter}.onnx")
    assert sizes(found) == {(128, 1): 1, (4, 32): 6, (32, 4): 12, (512, 1): 6}
    assert [group.exactness for group in found.groups].count(Exactness.STATISTICS) == 1
