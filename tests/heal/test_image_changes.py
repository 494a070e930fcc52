# SPDX-License-Identifier: Apache-2.0
"""Images warped and coloured: what is expected of each change, in either order of the axes."""

from __future__ import annotations

import numpy as np
import pytest

from edgefold.heal.image_changes import MAX_CONTRAST, MAX_SATURATION, MAX_ZOOM, coloured, warped


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((2, 3, 16, 24)).astype(np.float32)


def test_a_warp_of_nothing_is_the_image(images: np.ndarray) -> None:
    np.testing.assert_allclose(warped(images, np.zeros((2, 2))), images, atol=1e-6)


def test_a_magnified_ramp_rises_more_slowly_about_the_same_centre() -> None:
    ramp = np.broadcast_to(np.arange(24, dtype=np.float32), (1, 1, 16, 24))
    centre = (24 - 1) / 2
    expected = centre + (np.arange(24) - centre) / MAX_ZOOM  # inside the image, where nothing is mirrored
    np.testing.assert_allclose(warped(ramp, np.array([[1.0, 0.0]]))[0, 0, 3], expected, rtol=1e-5)


def test_what_comes_in_from_outside_is_mirrored() -> None:
    ramp = np.broadcast_to(np.arange(24, dtype=np.float32), (1, 1, 16, 24))
    small = warped(ramp, np.array([[-1.0, 0.0]]))[0, 0, 3]
    read = 11.5 + (np.arange(24) - 11.5) * MAX_ZOOM
    np.testing.assert_allclose(small, np.where(read < 0, -read, np.minimum(read, 46 - read)), atol=1e-4)


def test_a_turned_ramp_rises_along_its_new_direction() -> None:
    ramp = np.broadcast_to(np.arange(33, dtype=np.float32), (1, 1, 33, 33))
    turned = warped(ramp, np.array([[0.0, 1.0]]))[0, 0]
    down, right = turned[20, 16] - turned[12, 16], turned[16, 20] - turned[16, 12]
    assert turned[16, 16] == pytest.approx(16, abs=1e-4)  # the centre stays
    assert right / 8 == pytest.approx(np.cos(np.pi / 12), rel=1e-4)
    assert down / 8 == pytest.approx(np.sin(np.pi / 12), rel=1e-4)


def test_colours_change_what_they_are_named_for(images: np.ndarray) -> None:
    def by(*shares: float) -> np.ndarray:
        return coloured(images, np.array([shares, shares]))

    np.testing.assert_allclose(by(0, 0, 0), images, atol=1e-6)
    np.testing.assert_allclose(
        by(1, 0, 0) - images, (by(1, 0, 0) - images)[:, :1, :1, :1] * np.ones_like(images), atol=1e-5
    )
    np.testing.assert_allclose(
        by(0, 1, 0).std(axis=(1, 2, 3)), (1 + MAX_CONTRAST) * images.std(axis=(1, 2, 3)), rtol=1e-5
    )
    np.testing.assert_allclose(by(0, 1, 0).mean(axis=(1, 2, 3)), images.mean(axis=(1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(by(0, 0, -1).mean(axis=1), images.mean(axis=1), atol=1e-5)
    spread = images - images.mean(axis=1, keepdims=True)
    paler = by(0, 0, -1) - images.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(paler, (1 - MAX_SATURATION) * spread, atol=1e-5)


def test_channels_may_come_last(images: np.ndarray) -> None:
    last = np.moveaxis(images, 1, -1)
    warps, colours = np.array([[0.3, -0.7], [-1, 1]]), np.array([[0.1, 0.2, 0.3], [-1, 1, -1]])
    np.testing.assert_array_equal(warped(images, warps), np.moveaxis(warped(last, warps), -1, 1))
    np.testing.assert_allclose(
        coloured(images, colours), np.moveaxis(coloured(last, colours), -1, 1), rtol=1e-5, atol=1e-6
    )
    assert warped(images, warps).dtype == coloured(images, colours).dtype == np.float32
