# SPDX-License-Identifier: Apache-2.0
"""One torch module, randomized from a seed, through either of torch's ONNX exporters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

EXPORTERS = {"torch-legacy": 17, "torch-dynamo": 20}
"""Exporter and the opset that it is asked for."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)


@dataclasses.dataclass(frozen=True)
class Example:
    """How a network is called.

    Attributes:
        arrays: input name -> shape, of floats; ids are integers below ``vocabulary``.
        ids: the inputs among them that hold integers.
        dynamic: input name -> the axes that may have any size, by name.
        outputs: how many tensors the network returns.
    """

    arrays: dict[str, tuple[int, ...]]
    dynamic: dict[str, dict[int, str]]
    ids: tuple[str, ...] = ()
    outputs: int = 1
    vocabulary: int = 16

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: self.tensor(name, shape) for name, shape in self.arrays.items()}

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("mask"):
            return torch.ones(shape, dtype=torch.int64)
        return torch.randint(2, self.vocabulary, shape) if name in self.ids else torch.randn(shape)


def randomize(module: nn.Module) -> None:
    """Gives every normalization statistics and factors of its own, as training would.

    Fresh ones are all ones and zeros: exporters would then store many as one tensor, and a pruner that
    mixes channels up would not be found out.
    """
    for layer in module.modules():
        if isinstance(layer, NORMS) and layer.weight is not None:
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    for name, parameter in module.named_parameters():
        if name.endswith("bias") and not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.02)


def export(build: Callable[[], nn.Module], example: Example, exporter: str, path: Path, seed: int = 0) -> None:
    """Builds, randomizes and writes one network."""
    torch.manual_seed(seed)
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operators have no ONNX form
    module = build().eval()
    randomize(module)
    tensors = example.tensors()
    names = {
        "input_names": list(tensors),
        "output_names": ["output"] if example.outputs == 1 else [f"output{n}" for n in range(example.outputs)],
        "opset_version": EXPORTERS[exporter],
    }
    with torch.no_grad():
        if exporter == "torch-legacy":
            options: dict[str, Any] = {"dynamo": False, "dynamic_axes": example.dynamic, "do_constant_folding": True}
            torch.onnx.export(module, tuple(tensors.values()), str(path), **names, **options)
            return
        shapes = tuple(example.dynamic.get(name) for name in tensors)
        # The second exporter folds batch normalization into convolutions; the first does too.
        program = torch.onnx.export(
            module, tuple(tensors.values()), dynamo=True, dynamic_shapes=shapes, verbose=False, **names
        )
        assert program is not None
        program.save(str(path))
