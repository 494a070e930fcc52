# SPDX-License-Identifier: Apache-2.0
"""L1 batch normalization against its definition, and its gradient against finite differences."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'heal'")

from edgefold.heal.integer.normalization import L1BatchNorm2d, l1_normalized  # noqa: E402


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_definition() -> None:
    x = 3 * images(4, 3, 5, 6) + torch.tensor([1.0, -2.0, 0.5]).reshape(3, 1, 1)
    channels = x.transpose(0, 1).flatten(1).numpy()
    mean = channels.mean(1)
    deviation = np.sqrt(np.pi / 2) * np.abs(channels - mean[:, None]).mean(1)
    normalized, found_mean, found_deviation = l1_normalized(x, 1e-5)
    np.testing.assert_allclose(found_mean, mean)
    np.testing.assert_allclose(found_deviation, deviation)
    expected = (channels - mean[:, None]) / (deviation[:, None] + 1e-5)
    np.testing.assert_allclose(normalized.transpose(0, 1).flatten(1), expected, atol=1e-12)


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(5, 3), (4, 2, 3, 3)])
def test_gradient_against_finite_differences(shape: tuple[int, ...], eps: float) -> None:
    x = images(*shape, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: l1_normalized(value, eps)[0], (x,), eps=1e-6, atol=1e-6)


def test_a_gaussian_comes_out_as_l2_normalization_leaves_it() -> None:
    x = images(64, 2, 32, 32).float()
    ours, theirs = L1BatchNorm2d(2)(x), torch.nn.BatchNorm2d(2)(x)
    assert (ours - theirs).abs().max() < 0.03


def test_a_constant_channel_gives_the_bias() -> None:
    norm = L1BatchNorm2d(2)
    norm.bias.data = torch.tensor([0.5, -1.0])
    x = images(4, 2, 3, 3).float()
    x[:, 1] = 7.0
    found = norm(x)
    assert torch.equal(found[:, 1], torch.full((4, 3, 3), -1.0))
    found.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in norm.parameters())


def test_statistics_run_in_training_and_stand_still_afterwards() -> None:
    norm, x = L1BatchNorm2d(3), 2 * images(8, 3, 4, 4).float() + 1
    for _ in range(200):
        trained = norm(x)
    norm.eval()
    factor, offset = norm.affine()
    for found in (norm(x), x * factor[:, None, None] + offset[:, None, None]):
        assert torch.allclose(found, trained, atol=1e-5)
    norm(10 * x)
    assert torch.equal(norm.affine()[0], factor)
