# SPDX-License-Identifier: Apache-2.0
"""ShiftQuant with stochastic rounding: never clips, never biased, and close to a scale for every channel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra 'heal'")

from edgefold.heal.integer.shift_quantizer import ShiftCodes, ShiftQuantizer, group_numbers  # noqa: E402

SPREAD = torch.logspace(-1.5, 1.5, 12)[:, None]


def spread_gradient(seed: int, samples: int = 8, places: int = 16) -> torch.Tensor:
    """[samples, 12, places], channel ranges over three decades."""
    return torch.randn(samples, 12, places, generator=torch.Generator().manual_seed(seed)) * SPREAD


def factors(found: ShiftCodes) -> torch.Tensor:
    """Two to the shift of each channel, and of each sample: float32 [samples, 12, 1]."""
    return torch.exp2(found.shifts.float())[:, None] * torch.exp2(found.sample_shifts.float())[:, None, None]


def test_groups_of_the_papers_definition() -> None:
    ranges = torch.tensor([8, 4, 3.9, 1, 0.2, 0])
    assert group_numbers(ranges, ranges.max(), 4).tolist() == [0, 1, 1, 3, 3, 3]


@given(st.floats(2.0**-99, 2.0**99, width=32), st.integers(0, 12), st.sampled_from([-1, 0, 1]))
def test_exact_powers_of_two_fall_into_their_own_group(widest: float, octaves: int, step: int) -> None:
    top = np.float32(widest)
    below = np.float32(top / np.float32(2**octaves))
    ranges = torch.tensor([top, below if not step else np.nextafter(below, np.float32(step * np.inf))])
    expected = np.floor(np.log2(np.float64(ranges.max()) / ranges.double().numpy())).clip(0, 4)
    # The logarithm of a float64 ratio next to a power of two rounds to it; one ulp of a float32 is told apart.
    assert group_numbers(ranges, ranges.max(), 5).tolist() == expected.tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.data())
def test_codes_fit_their_width_without_clipping(bits: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, 9 - bits))
    exponent = data.draw(st.integers(-60, 60))
    gradient = spread_gradient(data.draw(st.integers(0, 9))) * 2.0**exponent
    gradient[1::2] *= 2.0 ** -data.draw(st.integers(0, 6))
    found = ShiftQuantizer(bits, groups)(gradient)
    plain = found.codes / factors(found)
    assert torch.equal(plain, plain.round())
    assert plain.abs().max() <= 2 ** (bits - 1) - 1
    for powers in (found.shifts[:, None], found.sample_shifts[:, None, None]):
        assert (found.codes / torch.exp2(powers.float())).abs().max() <= 127
    assert ((found.dequantized() - gradient).abs() < found.step * factors(found) * 1.001).all()


def test_the_channel_may_be_any_dimension() -> None:
    gradient = spread_gradient(0)
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    first = ShiftQuantizer(sample_groups=1, generator=seeds[0])(gradient)
    last = ShiftQuantizer(sample_groups=1, generator=seeds[1])(gradient.transpose(1, 2), -1)
    assert torch.equal(first.shifts, last.shifts)
    assert len(set(first.shifts.tolist())) == 5
    assert first.step == last.step


def test_zeros_stay_zeros() -> None:
    assert not ShiftQuantizer()(torch.zeros(2, 3, 4)).codes.any()
    gradient = spread_gradient(0)
    gradient[:, 3] = 0
    assert not ShiftQuantizer()(gradient).codes[:, 3].any()


def test_expectation_is_the_gradient_and_variance_that_of_stochastic_rounding() -> None:
    draws = 1000
    # All channels within the reach of the groups: below it an element hardly ever leaves 0.
    gradient = spread_gradient(3) / SPREAD * torch.logspace(-0.5, 0.5, 12)[:, None]
    gradient[::2] /= 4
    quantizer = ShiftQuantizer(generator=torch.Generator().manual_seed(0))
    errors = torch.stack([quantizer(gradient).dequantized() - gradient for _ in range(draws)]).double()
    found = quantizer(gradient)
    assert found.sample_shifts.unique().numel() > 1
    steps = (found.step * factors(found)).double()
    # The variance of an element is f (1 - f) steps squared, f the part of the gradient between two codes.
    f = torch.remainder(gradient.double() / steps, 1)
    deviation = (f * (1 - f)).sqrt() * steps
    z = errors.mean(0) / (deviation / draws**0.5).clamp_min(1e-12)
    assert z.abs().max() < 5
    assert z.mean().abs() < 5 / z.numel() ** 0.5
    assert abs(float((errors.square() / steps**2).mean()) * 6 - 1) < 0.05


def test_four_times_the_variance_of_a_scale_for_each_channel() -> None:
    gradient = spread_gradient(5)
    found = ShiftQuantizer(sample_groups=1)(gradient)
    steps = found.step * torch.exp2(found.shifts.float())
    ranges = gradient.abs().amax((0, 2))
    per_channel, per_tensor = (ranges / 7).square(), (ranges.max() / 7).square()
    tail = found.shifts == 0
    bound = torch.where(tail, (4 * per_channel).clamp_min(4.0**-4 * per_tensor), 4 * per_channel)
    assert (steps.square() <= bound * 1.0001).all()
    assert tail.any()
    assert steps.square().sum() < 0.5 * len(steps) * per_tensor


@pytest.mark.parametrize(("bits", "groups"), [(1, 1), (9, 1), (4, 6), (8, 2), (4, 0)])
def test_what_does_not_fit_int8_is_refused(bits: int, groups: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        ShiftQuantizer(bits, groups)
