# SPDX-License-Identifier: Apache-2.0
"""The finder on what optimizers make of a model, and on architectures that torch exports.

All others are in docs/results/blocks.md, whose table of expected blocks is used here too.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import onnx
import pytest

from edgefold.files.loading import load_model
from edgefold.passes.depth.blocks import find_stacks

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NETWORKS = [
    "conformer", "convnext_tiny", "cspdarknet", "deit_tiny_distilled", "densenet121", "edsr", "efficientnet_b0",
    "gmlp_s16", "hrnet_w18_small", "mlp_mixer_s16", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_large", "mobilevit_s",
    "poolformer_s12", "preact_resnet18", "regnet_x_400mf", "regnet_y_400mf", "res2net50", "resnet18", "resnet50",
    "resnext50_32x4d", "se_resnet50", "shufflenet_v1_g4", "style_transfer", "swin_t", "unet", "vgg16_bn", "vit_small",
    "vit_small_sdpa", "vit_torch_encoder", "xcit_t",
]  # fmt: skip


@pytest.fixture
def import_from(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Imports a script from a folder that is no package."""

    def load(folder: str, name: str):  # type: ignore[no-untyped-def]
        monkeypatch.setattr(sys, "path", [str(ROOT / folder), *sys.path])
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


def counts(path: Path) -> list[int]:
    return [len(stack.blocks) for stack in find_stacks(load_model(path).model)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", ["ort_basic", "ort_extended", "ort_all", "int8"])
def test_what_optimizers_make_of_the_committed_model(import_from, variant: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import_from("models/zoo", "optimized_zoo").catalogue()[f"char_lm_{variant}"](tmp_path / "model.onnx")
    assert counts(tmp_path / "model.onnx") == [3]


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="this onnx wheel ships no real architectures")
@pytest.mark.parametrize(("name", "expected"), [("squeezenet", []), ("vgg19", [])])
def test_architectures_of_the_onnx_package(name: str, expected: list[int]) -> None:
    assert counts(SHIPPED / f"light_{name}.onnx") == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's first exporter is deprecated, and says so
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_torch_exports(import_from, name: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("torch", reason="these networks are made with torch")
    path = tmp_path / "torch-legacy" / f"{name}.onnx"
    path.parent.mkdir()
    build, example = import_from("models/zoo", "torch_zoo").catalogue()[name]
    importlib.import_module("torch_export").export(build, example, "torch-legacy", path)
    expected = import_from("docs/results", "blocks").expected(path)
    assert "+".join(map(str, counts(path))) == expected.replace("none", "")
