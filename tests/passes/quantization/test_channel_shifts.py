# SPDX-License-Identifier: Apache-2.0
"""Steps of activation codes: within 8 bits when shifted, judged by the layer's output, and shifted only for a gain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes.quantization.channel_shifts import choose_dynamic, choose_static, output_error
from edgefold.passes.quantization.shift_nodes import Activation
from edgefold.passes.quantization.step_costs import Float


def normal(rows: int, channels: int, seed: int = 0) -> Float:
    return np.random.default_rng(seed).standard_normal((rows, channels)).astype(np.float32)


def spread(channels: int) -> Float:
    """Ranges from 1 to 1/16."""
    return np.exp2(-(np.arange(channels) % 5)).astype(np.float32)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([4, 6]), st.integers(1, 20), st.integers(0, 2**16), st.booleans(), st.booleans())
def test_shifted_codes_fit_a_byte_and_no_error_is_added(
    bits: int, channels: int, seed: int, rectified: bool, dynamic: bool
) -> None:
    rng = np.random.default_rng(seed)
    rows = normal(64, channels, seed) * np.exp2(rng.uniform(-8, 8, channels)).astype(np.float32)
    rows = np.maximum(rows, 0) if rectified else rows
    weight = normal(channels, 5, seed + 1)
    # Cross-validation may prefer what is not the best on the sample; channel by channel none is worse than no choice.
    gram = weight @ weight.T if dynamic else np.diag(np.square(weight).sum(axis=1))
    chosen = (choose_dynamic if dynamic else choose_static)(rows, gram, bits, 8)
    assert chosen.high << max(chosen.shifts, default=0) <= (255 if chosen.low == 0 else 127)
    assert -chosen.low in (0, chosen.high)
    assert min(chosen.shifts, default=0) == 0 or dynamic
    plain = Activation(
        chosen.low, chosen.high, float(np.float32(np.abs(rows).max() / chosen.high)) if not dynamic else 0.0
    )
    if rows.any():
        assert output_error(rows, gram, chosen) <= output_error(rows, gram, plain) * (1 + 1e-4)


@pytest.mark.parametrize("choose", [choose_static, choose_dynamic])
def test_wide_channels_get_coarse_steps(choose: object) -> None:
    rows = normal(512, 20) * spread(20)
    chosen = choose(rows, np.eye(20, dtype=np.float32), 4, 5)  # type: ignore[operator]
    shifts = np.array(chosen.shifts)
    assert (np.diff(shifts[:5]) <= 0).all()
    assert shifts[0] >= shifts[4] + 2


def test_channels_of_one_range_need_no_shifts_under_dynamic_scales() -> None:
    rows = np.sign(normal(512, 20)) * np.random.default_rng(1).uniform(0, 1, (512, 20)).astype(np.float32)
    assert choose_dynamic(rows, np.eye(20, dtype=np.float32), 4, 5).shifts == ()


def test_a_wide_channel_that_meets_no_weights_may_be_coarse() -> None:
    rows = normal(512, 4)
    rows[:, 0] *= 100
    gram = np.diag(np.array([0, 1, 1, 1], np.float32))
    chosen = choose_static(rows, gram, 4, 5)
    # The others are coded as finely as if the wide channel were not there: its values are clipped.
    assert chosen.scale * 2 ** (chosen.shifts or (0,) * 4)[1] < 1


def test_rare_outliers_are_clipped() -> None:
    rows = normal(4096, 8)
    rows[0, 0] = 50
    chosen = choose_static(rows, np.eye(8, dtype=np.float32), 4, 5)
    assert chosen.scale * chosen.high * 2 ** max(chosen.shifts, default=0) < 50


@pytest.mark.parametrize("choose", [choose_static, choose_dynamic])
@pytest.mark.parametrize("groups", [1, 3, 8])
def test_groups_bound_the_number_of_steps(choose: Callable[..., Activation], groups: int) -> None:
    rows = normal(512, 20) * np.exp2(-np.arange(20, dtype=np.float32) / 3)
    chosen = choose(rows, np.eye(20, dtype=np.float32), 4, groups)
    assert max(chosen.shifts, default=0) == min(groups, 5) - 1  # 4-bit codes leave room for five


def test_full_covariance_decides() -> None:
    """Errors of channels whose weights are opposite cancel: the diagonal alone cannot see that."""
    shared = normal(512, 1)
    rows = np.concatenate([shared, shared], axis=1)
    opposite = np.array([[1, -1], [-1, 1]], np.float32)
    assert output_error(rows, opposite, Activation(-7, 7, 0.5)) == pytest.approx(0, abs=1e-6)
    assert output_error(rows, np.abs(opposite), Activation(-7, 7, 0.5)) > 0.01


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_inputs(value: float) -> None:
    rows = np.full((16, 3), value, np.float32)
    chosen = choose_static(rows, np.eye(3, dtype=np.float32), 4, 5)
    assert chosen.scale > 0
    assert chosen.low == 0


def rarely_active(samples: int, seed: int) -> Float:
    """Rows of 256 channels, 16 of each sample; a channel is active in one sample of twenty, then more or less so."""
    rng = np.random.default_rng(seed)
    strength = rng.lognormal(0, 1, (samples, 1, 256)) * (rng.random((samples, 1, 256)) < 0.05)
    return (strength * rng.uniform(0, 1, (samples, 16, 256))).reshape(-1, 256).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 6])
def test_steps_of_rarely_active_channels_hold_for_other_samples(bits: int) -> None:
    """A sample shows few of the large values of such a channel: steps that fit it would clip the next ones."""
    gram = np.eye(256, dtype=np.float32)
    shown, others = rarely_active(50, seed=0), rarely_active(50, seed=1)
    chosen, plain = (choose_static(shown, gram, bits, groups) for groups in (8, 1))
    assert output_error(others, gram, chosen) <= output_error(others, gram, plain)
