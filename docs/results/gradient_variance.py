# SPDX-License-Identifier: Apache-2.0
"""What rounding gradients to 4 bits adds to them: its variance, by the number of groups of channels and of samples.

    python docs/results/gradient_variance.py CALIB.npz

Prints a table; docs/results/integer_training.md holds it. A ResNet-8 of models/cifar_integer.py, trained in integers
for five epochs; one batch of a hundred images, whose gradients with and without rounding are compared by layer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models"))

import cifar_integer as script

DRAWS = 20
EXACT = script.FLOAT_BITS
GROUPS = ((1, 1), (5, 1), (1, 5), (5, 3), (5, 5))


def main(calibration: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = script.load_images(calibration)
    trained = network(4, 5, 3)
    script.train(trained, images[: -script.HELD_OUT], labels[: -script.HELD_OUT], epochs=5, seed=0)
    state = trained.state_dict()
    batch = torch.from_numpy(images[: script.BATCH]), labels[: script.BATCH]
    exact = gradients(network(EXACT, 1, 1), state, batch)
    print("| groups of channels | groups of samples | variance, mean over layers | largest |\n|---|---|---|---|")
    for channels, samples in GROUPS:
        rounded = network(4, channels, samples)
        draws = [gradients(rounded, state, batch) for _ in range(DRAWS)]
        layers = [
            statistics.fmean(float((one - wanted).square().sum() / wanted.square().sum()) for one in found)
            for wanted, *found in zip(exact, *draws, strict=True)
        ]
        print(f"| {channels} | {samples} | {statistics.fmean(layers):.3f} | {max(layers):.3f} |")


def network(gradient_bits: int, groups: int, sample_groups: int) -> torch.nn.Module:
    """An untrained network of 4-bit layers."""
    options = {"arithmetic": "integer", "bits": 4, "ends": 8, "gradients": gradient_bits, "norm": None, "seed": 0}
    layers = script.Layers(argparse.Namespace(**options, groups=groups, sample_groups=sample_groups))
    return script.ResNet8(layers).to(memory_format=torch.channels_last)


def gradients(
    module: torch.nn.Module, state: dict[str, torch.Tensor], batch: tuple[torch.Tensor, torch.Tensor]
) -> list[torch.Tensor]:
    """Those of the weights of convolutions."""
    module.load_state_dict(state)
    module.train()
    module.zero_grad()
    torch.nn.functional.cross_entropy(module(batch[0]), batch[1]).backward()
    weights = [one for one in module.parameters() if one.dim() > 2]
    return [one.grad.clone() for one in weights if one.grad is not None]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
