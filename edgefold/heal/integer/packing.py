# SPDX-License-Identifier: Apache-2.0
"""What a network learnt in integers, stored in an ONNX graph as it is: packed codes, and no second rounding."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgefold.errors import ModelError
from edgefold.heal.integer.codes import weight_codes
from edgefold.heal.integer.layers import IntegerConv2d, IntegerLinear
from edgefold.heal.integer.normalization import L1BatchNorm2d
from edgefold.ops import add_functions
from edgefold.passes._constants import remove_if_unread
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import WeightedNode, weighted_node
from edgefold.passes.quantization.codebook import uniform_levels
from edgefold.passes.quantization.codes import QuantizedMatrix
from edgefold.passes.quantization.selection import GROUP
from edgefold.passes.quantization.shift_nodes import Activation, replace_node, store_matrix


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedLayer:
    """How the weights and inputs of one trained layer are integers.

    Attributes:
        scales: float32 [N]; the weights are whole multiples of them, and a batch normalization is folded in.
        bits: width of a weight's code.
        activation: how the inputs become integers.
    """

    scales: NDArray[np.float32]
    bits: int
    activation: Activation


def frozen(network: nn.Module) -> tuple[nn.Module, dict[str, TrainedLayer]]:
    """A trained network in plain layers, which torch can export, and what makes integers of them again.

    A convolution and the batch normalization after it, in one ``nn.Sequential``, become one ``nn.Conv2d`` with bias.

    Args:
        network: in evaluation mode; not changed.

    Returns:
        The network with ``nn.Conv2d`` and ``nn.Linear`` in the place of the integer layers, inputs left in float, and
        the trained layers by the name of their weight in it.
    """
    plain = copy.deepcopy(network)
    trained: dict[str, TrainedLayer] = {}
    for path, parent in list(plain.named_modules()):
        children = list(parent.named_children())
        for (name, layer), (next_name, after) in zip(children, [*children, ("", None)][1:], strict=True):
            weight = f"{path}.{name}.weight".lstrip(".")
            if isinstance(layer, IntegerLinear):
                replacement, trained[weight] = _plain_linear(layer)
                setattr(parent, name, replacement)
            elif isinstance(layer, IntegerConv2d):
                follows = isinstance(parent, nn.Sequential) and isinstance(after, L1BatchNorm2d | nn.BatchNorm2d)
                replacement, trained[weight] = _plain_convolution(layer, after if follows else None)
                setattr(parent, name, replacement)
                if follows:
                    setattr(parent, next_name, nn.Identity())
    return plain, trained


def store_codes(model: ir.Model, layers: Mapping[str, TrainedLayer]) -> None:
    """Puts packed integers in the place of the layers of an exported network.

    Args:
        model: exported from what `frozen` gave; changed in place.
        layers: by the names of their weights.

    Raises:
        ModelError: no node of the model reads one of the weights.
    """
    store = InitializerStore(model.graph)
    missing = dict(layers)
    for node in list(model.graph):
        site = weighted_node(node)
        if not isinstance(site, WeightedNode):
            continue
        name = str(site.weight.root.name)
        if (layer := missing.pop(name, None)) is not None:
            weights = store_matrix(store, name, _matrix(site.matrix(), layer))
            replace_node(store, site, weights, layer.bits, layer.activation)
            remove_if_unread(site.weight)
    if missing:
        raise ModelError(f"no MatMul, Gemm or Conv of the exported model reads {', '.join(missing)}")
    add_functions(model)


def _matrix(weights: NDArray[np.float32], layer: TrainedLayer) -> QuantizedMatrix:
    """Weights [K, N] that are multiples of their scales, as codes."""
    integers = np.rint(weights / np.where(layer.scales == 0, 1, layer.scales)).astype(np.int16)
    codes = (integers + 2 ** (layer.bits - 1)).astype(np.uint8)
    selectors = np.zeros((-(-codes.shape[0] // GROUP), codes.shape[1]), np.uint8)
    return QuantizedMatrix(codes, selectors, uniform_levels(layer.bits)[None], layer.scales, layer.bits)


def _plain_convolution(layer: IntegerConv2d, norm: nn.Module | None) -> tuple[nn.Module, TrainedLayer]:
    factor, offset = _affine(norm, layer.out_channels)
    plain = nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, groups=layer.groups
    )
    codes, scales = weight_codes(layer.weight.detach(), layer.precision.weights)
    return _filled(plain, codes, scales * factor, offset), _trained(layer, scales * factor)


def _plain_linear(layer: IntegerLinear) -> tuple[nn.Module, TrainedLayer]:
    plain = nn.Linear(layer.in_features, layer.out_features)
    codes, scales = weight_codes(layer.weight.detach(), layer.precision.weights)
    return _filled(plain, codes, scales, layer.bias.detach()), _trained(layer, scales)


def _filled(plain: nn.Module, codes: Tensor, scales: Tensor, bias: Tensor) -> nn.Module:
    with torch.no_grad():
        plain.weight.copy_(codes * scales.reshape(-1, *[1] * (codes.dim() - 1)))
        plain.bias.copy_(bias)
    return plain.eval()


def _trained(layer: IntegerConv2d | IntegerLinear, scales: Tensor) -> TrainedLayer:
    inputs = layer.input_codes
    activation = Activation(inputs.low, inputs.high, float(inputs.step.detach()))
    return TrainedLayer(scales.numpy().astype(np.float32), layer.precision.weights, activation)


def _affine(norm: nn.Module | None, channels: int) -> tuple[Tensor, Tensor]:
    """Factor and addend of each channel that a trained batch normalization comes to."""
    if norm is None:
        return torch.ones(channels), torch.zeros(channels)
    if isinstance(norm, L1BatchNorm2d):
        factor, offset = norm.affine()
    else:
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        offset = norm.bias - norm.running_mean * factor
    return factor.detach(), offset.detach()
