# SPDX-License-Identifier: Apache-2.0
"""ShiftQuant for gradients: groups of channels and of samples at scales a power of two apart, rounded stochastically.

Each of the two backward products sums over one of them: the input gradient over output channels, the weight gradient
over samples. There the shift is inside the sum, on the integer operand; the other is a common factor of its terms.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

SAMPLE_GROUPS = 3


@dataclasses.dataclass(frozen=True)
class ShiftCodes:
    """A tensor as integers: ``step * codes``.

    Attributes:
        codes: float32, the shape of the tensor, integer values: q << (shift of the channel + shift of the sample),
            |q| <= 2**(bits - 1) - 1.
        shifts: int32 [C], how far the codes of each channel are shifted to the left.
        sample_shifts: int32 [B], and those of each sample.
        step: float32 scalar, the scale of the finest group.
    """

    codes: Tensor
    shifts: Tensor
    sample_shifts: Tensor
    step: Tensor

    def dequantized(self) -> Tensor:
        """The values that the codes stand for."""
        return self.codes * self.step


@dataclasses.dataclass(frozen=True, eq=False)
class ShiftQuantizer:
    """Rounds gradients to integers whose expectation is the gradient (arXiv 2411.10948, section 3).

    Nothing is ever clipped: a channel's scale covers its range, so stochastic rounding is unbiased, and so are the
    products with the codes, because they are linear. Samples that the network has learnt have small gradients; with
    scales of their own (the per-sample quantizer of StatQuant, arXiv 2010.14298, section 4) they are not lost.

    Attributes:
        bits: width of a code, 2 to 8.
        groups: how many scales, s0 * 2**-g for g below it; 1 is one scale for the tensor. A shifted code has
            ``bits + groups - 1`` bits, at most 8, so that it fits int8.
        sample_groups: likewise for the samples, along the first dimension; None takes 3, or as many as fit, beyond
            which the variance hardly falls (docs/results/integer_training.md).
        generator: of the random numbers; torch's own where it is None.

    Raises:
        ValueError: a width or a number of groups out of range.
    """

    bits: int = 4
    groups: int = 5
    sample_groups: int | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"gradients take 2 to 8 bits, not {self.bits}")
        for groups in (self.groups, self.largest_sample_shift + 1):
            if not 1 <= groups <= 9 - self.bits:
                raise ValueError(f"codes of {self.bits} bits take 1 to {9 - self.bits} groups in int8, not {groups}")

    @property
    def largest(self) -> int:
        """The largest code before it is shifted."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def largest_shift(self) -> int:
        """By how much the codes of the widest channels are shifted."""
        return self.groups - 1

    @property
    def largest_sample_shift(self) -> int:
        """By how much the codes of the widest samples are shifted."""
        groups = min(SAMPLE_GROUPS, 9 - self.bits) if self.sample_groups is None else self.sample_groups
        return groups - 1

    def __call__(self, gradient: Tensor, channel: int = 1) -> ShiftCodes:
        """Quantizes a gradient of finite float32 values.

        Args:
            gradient: [B, ...], with the channels along the dimension ``channel``.
            channel: the inner dimension of the product that follows.
        """
        axis = channel % gradient.dim()
        widest = gradient.abs().amax()
        if widest == 0:
            return ShiftCodes(torch.zeros_like(gradient), *_no_shifts(gradient, axis), widest)
        sample_shifts = _shifts(gradient, 0, widest, self.largest_sample_shift)
        # Channels are judged after the samples were brought together: no product of the two scales then clips a value.
        levelled = gradient * _powers(self.largest_sample_shift - sample_shifts, gradient, 0)
        shifts = _shifts(levelled, axis, widest, self.largest_shift)
        # Rounded down, so that not even the largest value can leave the codes.
        unit = torch.nextafter(self.largest / widest, widest.new_zeros(()))
        codes = self._rounded(levelled.mul_(_powers(self.largest_shift - shifts, gradient, axis) * unit))
        codes.mul_(_powers(shifts, gradient, axis)).mul_(_powers(sample_shifts, gradient, 0))
        finest = unit * 2.0 ** (self.largest_shift + self.largest_sample_shift)
        return ShiftCodes(codes, shifts, sample_shifts, finest.reciprocal())

    def _rounded(self, scaled: Tensor) -> Tensor:
        """floor(t) + [u < t - floor(t)] with u uniform in [0, 1); overwrites its argument."""
        low = torch.floor(scaled)
        fraction = scaled.sub_(low)
        uniform = torch.empty_like(fraction).uniform_(generator=self.generator)
        return low.add_(uniform.lt_(fraction))


def _shifts(gradient: Tensor, axis: int, widest: Tensor, largest: int) -> Tensor:
    """How far to shift what lies at each index of a dimension, int32; ``largest`` for the widest."""
    if largest == 0:
        return torch.zeros(gradient.shape[axis], dtype=torch.int32, device=gradient.device)
    return largest - group_numbers(_ranges(gradient, axis), widest, largest + 1)


def _no_shifts(gradient: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """For a gradient of zeros: of the channels, and of the samples."""
    channels, samples = (torch.zeros(gradient.shape[at], dtype=torch.int32) for at in (axis, 0))
    return channels.to(gradient.device), samples.to(gradient.device)


def _powers(exponents: Tensor, gradient: Tensor, axis: int) -> Tensor:
    """Two to the power of each, along one dimension of the gradient."""
    shape = [-1 if dimension == axis else 1 for dimension in range(gradient.dim())]
    return torch.exp2(exponents.to(gradient.dtype)).reshape(shape)


def _ranges(gradient: Tensor, axis: int) -> Tensor:
    """Largest magnitude of each channel; over one dimension at a time, which is vectorized in every memory layout."""
    largest = gradient.abs()
    if axis > 0:
        largest, axis = largest.amax(0), axis - 1
    others = [dimension for dimension in range(largest.dim()) if dimension != axis]
    return largest.amax(others) if others else largest


def group_numbers(ranges: Tensor, widest: Tensor, groups: int) -> Tensor:
    """The group of each channel: floor(log2(widest / range)), at most ``groups - 1``, where a channel of zeros goes.

    Computed from mantissa and exponent: a float logarithm would misplace ranges at exact powers of two.

    Args:
        ranges: float [C], at least 0.
        widest: float scalar, their maximum, above 0.
        groups: number of groups.

    Returns:
        int32 [C].
    """
    mantissa, exponent = torch.frexp(ranges)
    top_mantissa, top_exponent = torch.frexp(widest)
    octaves = top_exponent - exponent - (top_mantissa < mantissa).to(torch.int32)
    last = groups - 1
    return torch.where(ranges > 0, octaves.clamp(0, last), last).to(torch.int32)
