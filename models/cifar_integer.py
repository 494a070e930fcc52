# SPDX-License-Identifier: Apache-2.0
"""Trains a small ResNet on CIFAR-10 from scratch, in integers or in float, and writes it as ONNX.

Run ``python models/cifar_integer.py CALIB.npz OUT`` (about ten minutes on one core; ``--arithmetic float`` for the
reference on the same schedule), with CALIB.npz holding images ``x`` uint8 [n, 32, 32, 3] and labels ``y``. In integers,
OUT/model.onnx holds the trained codes: they are stored, not rounded again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from exporting import write_model
from torch import nn
from torch.nn import functional

from edgefold.heal.augmentation import Draw, augmented
from edgefold.heal.integer.layers import IntegerConv2d, IntegerLinear, Precision
from edgefold.heal.integer.normalization import L1BatchNorm2d
from edgefold.heal.integer.packing import frozen, store_codes
from edgefold.heal.integer.shift_quantizer import ShiftQuantizer
from edgefold.heal.schedule import learning_rate_factor

FLOAT_BITS = 32
HELD_OUT = 300
BATCH = 100
LEARNING_RATE = 0.1
WEIGHT_DECAY = 5e-4
SMOOTHING = 0.1
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
NORMS = {"l1": L1BatchNorm2d, "l2": nn.BatchNorm2d}


class Layers:
    """Makes the layers of one network: in float, or in integers of given widths.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._norm = NORMS[options.norm or ("l1" if options.arithmetic == "integer" else "l2")]
        self._bits, self._ends = options.bits, options.ends
        self._integer = options.arithmetic == "integer"
        self._gradients = options.gradients or options.bits
        self._groups, self._sample_groups = options.groups, options.sample_groups
        self._generator = torch.Generator().manual_seed(options.seed)

    def convolution(self, inputs: int, outputs: int, kernel: int, stride: int = 1, first: bool = False) -> nn.Module:
        """A convolution and its batch normalization."""
        if not self._integer:
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        else:
            precision = self._precision(self._ends if first else self._bits, unsigned=not first)
            convolution = IntegerConv2d(inputs, outputs, kernel, stride=stride, precision=precision)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        return nn.Sequential(convolution, self._norm(outputs))

    def classifier(self, inputs: int, outputs: int) -> nn.Module:
        """The last layer."""
        if not self._integer:
            return nn.Linear(inputs, outputs)
        return IntegerLinear(inputs, outputs, precision=self._precision(self._ends, unsigned=True))

    def _precision(self, bits: int, unsigned: bool) -> Precision:
        if self._gradients == FLOAT_BITS:
            return Precision(bits, bits, unsigned, None)
        gradients = max(bits, self._gradients)
        groups, sample_groups = (min(asked, 9 - gradients) for asked in (self._groups, self._sample_groups))
        return Precision(bits, bits, unsigned, ShiftQuantizer(gradients, groups, sample_groups, self._generator))


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = layers.convolution(inputs, outputs, 3, stride)
        self.second = layers.convolution(outputs, outputs, 3)
        changes = stride > 1 or inputs != outputs
        self.shortcut = layers.convolution(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.shortcut(x) + self.second(functional.relu(self.first(x))))


class ResNet8(nn.Module):
    """Images [batch, 3, 32, 32] to ten logits a row; the first convolution halves the sides, for one core's sake."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.stem = layers.convolution(3, 16, 3, stride=2, first=True)
        self.blocks = nn.Sequential(
            Residual(layers, 16, 16, 1), Residual(layers, 16, 32, 2), Residual(layers, 32, 64, 2)
        )
        self.head = layers.classifier(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(functional.relu(self.stem(image))).mean((2, 3)))


def load_images(path: Path) -> tuple[np.ndarray, torch.Tensor]:
    """Images float32 [n, 3, 32, 32], normalized, and labels."""
    with np.load(path, allow_pickle=False) as arrays:
        images = (arrays["x"].astype(np.float32) / 255 - MEAN) / STD
        labels = torch.from_numpy(arrays["y"].astype(np.int64))
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels


def train(network: nn.Module, images: np.ndarray, labels: torch.Tensor, epochs: int, seed: int) -> None:
    """SGD with Nesterov momentum under a cosine schedule; flips and shifts; ends in evaluation mode."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    steps_an_epoch = len(images) // BATCH
    steps = epochs * steps_an_epoch
    started = time.process_time()
    for step in range(steps):
        random = np.random.default_rng([seed, step])
        epoch, position = divmod(step, steps_an_epoch)
        order = np.random.default_rng([seed, steps, epoch]).permutation(len(images))
        rows = order[position * BATCH : (position + 1) * BATCH]
        feeds = augmented({"input": images[rows]}, ("flip", "crop"), Draw.of(random, BATCH))
        batch = torch.from_numpy(feeds["input"]).contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_factor((step + 1) / steps)
        loss = functional.cross_entropy(network(batch), labels[rows], label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % steps_an_epoch == 0:
            print(f"epoch {epoch + 1}: {loss.item():.3f} nats, {time.process_time() - started:.0f} s", flush=True)
    network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, images: np.ndarray, labels: torch.Tensor) -> float:
    """Share of images, in percent, whose largest logit is that of their label."""
    found = torch.cat([network(part).argmax(1) for part in torch.from_numpy(images).split(BATCH)])
    return 100 * float((found == labels).float().mean())


def write(network: nn.Module, path: Path) -> None:
    """Exports the network; its integer layers become packed codes in `ai.edgefold` nodes."""
    plain, layers = frozen(network)
    interface = {"input_names": ["input"], "output_names": ["logits"], "dynamic_shapes": ({0: "batch"},)}
    write_model(plain, torch.zeros(2, 3, 32, 32), path, optimize=True, interface=interface)
    if layers:
        model = ir.load(path)
        store_codes(model, layers)
        ir.save(model, path)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("calibration", type=Path, help="CIFAR-10 images x and labels y (.npz)")
    parser.add_argument("output", type=Path, help="folder to write model.onnx into")
    parser.add_argument("--arithmetic", choices=("integer", "float"), default="integer")
    parser.add_argument("--bits", type=int, default=4, help="of weights, inputs and gradients")
    parser.add_argument("--ends", type=int, default=8, help="bits of the first and the last layer")
    parser.add_argument("--gradients", type=int, help="bits of gradients where they differ; 32 keeps them float")
    parser.add_argument("--groups", type=int, default=5, help="of channels by gradient scale; 1 is one for all")
    parser.add_argument("--sample-groups", type=int, default=3, help="of samples by gradient scale; 1 is one for all")
    parser.add_argument("--norm", choices=tuple(NORMS), help="default: l1 in integers, l2 in float")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Trains on all but the last 300 images, exports, and prints the score of those 300."""
    options = parsed()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    network = ResNet8(Layers(options)).to(memory_format=torch.channels_last)
    images, labels = load_images(options.calibration)
    started = time.process_time()
    train(network, images[:-HELD_OUT], labels[:-HELD_OUT], options.epochs, options.seed)
    seconds = time.process_time() - started
    held_out = accuracy(network, images[-HELD_OUT:], labels[-HELD_OUT:])
    print(f"held out: top-1 {held_out:.2f} % of {HELD_OUT}; {seconds:.0f} processor seconds")
    write(network, options.output / "model.onnx")


if __name__ == "__main__":
    main()
