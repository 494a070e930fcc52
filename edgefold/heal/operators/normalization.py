# SPDX-License-Identifier: Apache-2.0
"""Normalization layers. Running statistics are constants; scale and bias are trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from edgefold.heal.operators.node import Binding, BoundNode, Kernel, UnsupportedNodeError


def _batch(node: BoundNode) -> Kernel:
    if node.integer("training_mode", 0) or not node.integer("spatial", 1) or node.reads_output(1):
        raise UnsupportedNodeError("is not in inference form; export the model for inference")
    epsilon = node.real("epsilon", 1e-5)

    def kernel(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)

    return kernel


def _instance(node: BoundNode) -> Kernel:
    epsilon = node.real("epsilon", 1e-5)

    def kernel(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return functional.instance_norm(x, None, None, scale, bias, True, 0.0, epsilon)

    return kernel


def _layer(node: BoundNode) -> Kernel:
    axis, epsilon = node.integer("axis", -1), node.real("epsilon", 1e-5)
    statistics = node.reads_output(1) or node.reads_output(2)

    def kernel(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        shape = x.shape[axis:]
        if not statistics and scale.shape == shape and (bias is None or bias.shape == shape):
            return functional.layer_norm(x, shape, scale, bias, epsilon)
        axes = tuple(range(axis if axis >= 0 else axis + x.dim(), x.dim()))
        mean = x.mean(axes, keepdim=True)
        centred = x - mean
        inverse = torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
        y = centred * inverse * scale
        y = y if bias is None else y + bias
        return (y, mean, inverse) if statistics else y

    return kernel


def _group(node: BoundNode) -> Kernel:
    groups, epsilon = node.integer("num_groups", 1), node.real("epsilon", 1e-5)
    per_group = node.version < 21  # opset 18 had one scale a group

    def kernel(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if per_group:
            repeats = x.shape[1] // groups
            scale, bias = scale.repeat_interleave(repeats), bias.repeat_interleave(repeats)
        return functional.group_norm(x, groups, scale, bias, epsilon)

    return kernel


def _root_mean_square(node: BoundNode) -> Kernel:
    axis, epsilon = node.integer("axis", -1), node.real("epsilon", 1e-5)

    def kernel(x: Tensor, scale: Tensor) -> Tensor:
        axes = tuple(range(axis if axis >= 0 else axis + x.dim(), x.dim()))
        return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon) * scale

    return kernel


def _local_response(node: BoundNode) -> Kernel:
    alpha, beta, bias = node.real("alpha", 1e-4), node.real("beta", 0.75), node.real("bias", 1.0)
    size = node.integer("size", 1)

    def kernel(x: Tensor) -> Tensor:
        rows = functional.pad(x.square().flatten(2).transpose(1, 2), ((size - 1) // 2, size // 2))
        sums = functional.avg_pool1d(rows, size, 1).transpose(1, 2).reshape(x.shape)  # already divided by size
        return x / (bias + alpha * sums) ** beta

    return kernel


def _norm(node: BoundNode) -> Kernel:
    axis, p = node.integer("axis", -1), node.integer("p", 2)
    return lambda x: functional.normalize(x, p, axis, eps=1e-30)  # zeros stay zeros


def _mean_variance(node: BoundNode) -> Kernel:
    axes = tuple(node.integers("axes") or (0, 2, 3))

    def kernel(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        return centred / (torch.sqrt(centred.square().mean(axes, keepdim=True)) + 1e-9)

    return kernel


OPERATORS: Mapping[str, Binding] = {
    "BatchNormalization": _batch,
    "GroupNormalization": _group,
    "InstanceNormalization": _instance,
    "LRN": _local_response,
    "LayerNormalization": _layer,
    "LpNormalization": _norm,
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _root_mean_square,
}
