# SPDX-License-Identifier: Apache-2.0
"""Every real model becomes a module: outputs as in ONNX Runtime, gradients at every weight, bytes as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="healing needs torch: pip install 'edgefold[heal]'")

from torch_graphs import in_torch  # noqa: E402

from edgefold.files.loading import load_model  # noqa: E402
from edgefold.files.serialization import serialize  # noqa: E402
from edgefold.heal.graph_module import GraphModule  # noqa: E402
from edgefold.interface import ModelInterface, Port  # noqa: E402
from edgefold.random_feeds import random_feeds  # noqa: E402
from edgefold.session import make_session, run  # noqa: E402

# Of the largest output: float32 sums in another order. int8 codes may step over to their neighbour.
TOLERANCE = {"imagenet_mobilenetv2/model_qdq_int8.onnx": 1e-2}

MODELS = [
    "cifar_resnet20/model.onnx",
    "cifar_resnet20/model_dynamo.onnx",
    "cifar_resnet56/model.onnx",
    "cifar_resnet56/model_dynamo.onnx",
    "deeplab_mobilenetv2/model.onnx",
    "dtln/model_1.onnx",
    "dtln/model_2.onnx",
    "gpt_charlm/model.onnx",
    "gpt_charlm/model_dynamo.onnx",
    "imagenet_mobilenetv2/model.onnx",
    "imagenet_mobilenetv2/model_qdq_int8.onnx",
    "imagenet_squeezenet11/model.onnx",
    "keras_autoencoder_ad01/model.onnx",
    "keras_mobilenetv1_vww/model.onnx",
    "minilm/model.onnx",
    "moe_charlm/model.onnx",
    "ppocr_det_v2/model.onnx",
    "sklearn_digits/model.onnx",
    "ultraface_slim320/model.onnx",
    "vit_mnist/model.onnx",
]


def size(port: Port, axis: int) -> int:
    stated = port.shape[axis]
    if isinstance(stated, int):
        return stated
    return 2 if axis == 0 else 96 if len(port.shape) == 4 else 16


@pytest.mark.parametrize("name", MODELS)
def test_real_model(name: str, data_folder: Path) -> None:
    if not (data_folder / name).exists():
        pytest.skip(f"{name} is not among the real models here")
    model = load_model(data_folder / name).model
    before = serialize(model)
    session = make_session(model, threads=1, optimize=False)
    interface = ModelInterface.of(session)
    feeds = random_feeds(
        interface, {port.name: tuple(size(port, axis) for axis in range(len(port.shape))) for port in interface.inputs}
    )
    module = GraphModule(model)
    outputs = in_torch(module, feeds)
    for ours, theirs in zip(outputs.values(), run(session, None, feeds), strict=True):
        scale = max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(
            ours.detach().numpy().astype(float) / scale, theirs.astype(float) / scale, rtol=0,
            atol=TOLERANCE.get(name, 2e-5),
        )  # fmt: skip
    _check_gradients(module, model, feeds, name)
    module.write_back(model)
    assert serialize(model) == before


def _check_gradients(module: GraphModule, model: ir.Model, feeds: dict[str, np.ndarray], name: str) -> None:
    """A gradient arrives at every weight; at the experts of a mixture, only of those that the router took."""
    inner = [str(value.producer().inputs[0].name) for value in model.graph.outputs if value.producer() is not None]
    outputs = [output for output in in_torch(module, feeds, *inner).values() if output.requires_grad]
    sum(output.square().sum() for output in outputs).backward()
    without = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    unmoved = [key for key, parameter in module.named_parameters() if not parameter.grad.any()]
    assert not without
    assert not unmoved or name.startswith("moe")
    assert list(module.parameters())
