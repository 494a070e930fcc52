# SPDX-License-Identifier: Apache-2.0
"""Graphs as text for the tests of the torch module, and the comparison with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnx_ir as ir
import torch

from edgefold.heal.graph_module import GraphModule
from edgefold.session import make_session

Array = npt.NDArray[Any]


def weights(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graph(text: str, opset: int = 21, ir_version: int = 10, **initializers: Array) -> ir.Model:
    """A model from ONNX text without its header; ``__`` in the name of an initializer becomes a dot afterwards."""
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\n'
    proto = onnx.parser.parse_model(header + text)
    for name, array in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name.replace("__", ".")))
    for node in proto.graph.node:
        node.input[:] = [name.replace("__", ".") for name in node.input]
    model = ir.from_proto(proto)
    assert isinstance(model, ir.Model)
    return model


def in_ort(model: ir.Model, feeds: Mapping[str, Array]) -> list[Array]:
    session = make_session(model, threads=1, optimize=False, library=False)
    return [np.asarray(output) for output in session.run(None, dict(feeds))]


def in_torch(module: GraphModule, feeds: Mapping[str, Array], *taps: str) -> dict[str, torch.Tensor]:
    result: dict[str, torch.Tensor] = module({name: torch.from_numpy(array) for name, array in feeds.items()}, taps)
    return result


def assert_same(model: ir.Model, feeds: Mapping[str, Array], rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """The module gives what stock ONNX Runtime gives: shapes, and values within float32's reassociation."""
    outputs = in_torch(GraphModule(model), feeds)
    for (name, ours), theirs in zip(outputs.items(), in_ort(model, feeds), strict=True):
        assert tuple(ours.shape) == theirs.shape, name
        np.testing.assert_allclose(
            ours.detach().numpy().astype(np.float64), theirs.astype(np.float64), rtol=rtol, atol=atol, err_msg=name
        )
