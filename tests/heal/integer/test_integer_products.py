# SPDX-License-Identifier: Apache-2.0
"""The three products of a training step are those of the integer kernels, and their gradients are unbiased."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'heal'")

from edgefold.errors import UsageError  # noqa: E402
from edgefold.heal.integer.products import (  # noqa: E402
    Arithmetic,
    container,
    integer_convolution,
    integer_linear,
)
from edgefold.heal.integer.shift_quantizer import ShiftCodes, ShiftQuantizer  # noqa: E402


class Recording(ShiftQuantizer):
    """Keeps the codes of the last gradient."""

    last: list[ShiftCodes] = []  # noqa: RUF012

    def __call__(self, gradient: torch.Tensor, channel: int = 1) -> ShiftCodes:
        self.last[:] = [super().__call__(gradient, channel)]
        return self.last[0]


def integers(shape: tuple[int, ...], low: int, high: int, seed: int) -> torch.Tensor:
    drawn = np.random.default_rng(seed).integers(low, high + 1, shape)
    return torch.from_numpy(drawn.astype(np.float32)).requires_grad_()


def gradient(shape: tuple[int, ...]) -> torch.Tensor:
    """Channels, dimension 1, of ranges over two decades; samples over one."""
    spread = torch.logspace(-1, 1, shape[1]).reshape(-1, *[1] * (len(shape) - 2))
    samples = torch.logspace(0, -1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return torch.randn(shape, generator=torch.Generator().manual_seed(7)) * spread * samples


def factors(found: ShiftCodes) -> tuple[np.ndarray, np.ndarray]:
    """Two to the shifts of the channels and of the samples."""
    assert found.shifts.max() > 0
    assert found.sample_shifts.unique().numel() > 1
    return tuple(2 ** shifts.numpy().astype(np.int64) for shifts in (found.shifts, found.sample_shifts))


class Geometry(NamedTuple):
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def int64(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.detach().numpy()
    assert np.array_equal(array, np.rint(array))
    return array.astype(np.int64)


def kernel_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left [M, K] times right [K, N] by the library's integer GEMM, int32."""
    kernels = pytest.importorskip("edgefold._kernels", reason="the compiled module edgefold._kernels is not built")
    gemm = next(row for row in kernels.families()["gemm"] if row.chosen())
    is_unsigned = bool(left.min() >= 0)
    assert left.max() <= (255 if is_unsigned else 127)
    assert abs(right).max() <= 127
    depth, columns = -(-left.shape[1] // 32) * 32, -(-right.shape[1] // 16) * 16
    rows = np.zeros((len(left), depth), np.uint8)
    rows[:, : left.shape[1]] = left & 255
    padded = np.zeros((depth, columns), np.int8)
    padded[: len(right), : right.shape[1]] = right
    # Panels of 16 columns, each in units of four consecutive k: the order N16K4.
    panels = padded.reshape(depth // 4, 4, columns // 16, 16).transpose(2, 0, 3, 1).reshape(columns // 16, -1, 64)
    panels = panels[:, : -(-left.shape[1] // 4)]
    found: np.ndarray = gemm(kernels.Rows(rows, is_unsigned), np.ascontiguousarray(panels))
    return found[:, : right.shape[1]]


def test_linear_products_are_those_of_the_integer_kernel() -> None:
    x, w = integers((37, 50), 0, 15, 0), integers((24, 50), -7, 7, 1)
    quantizer = Recording()
    product = integer_linear(x, w, Arithmetic(15, 7, quantizer))
    product.backward(gradient((37, 24)))
    found = quantizer.last[0]
    x_codes, w_codes, g_codes = int64(x), int64(w), int64(found.codes)
    channels, samples = (powers[:, None] for powers in factors(found))
    assert np.array_equal(int64(product), kernel_product(x_codes, w_codes.T))
    dx = samples * kernel_product(g_codes // samples, w_codes)
    dw = channels * kernel_product((g_codes // channels.T).T, x_codes)
    assert torch.equal(x.grad, torch.from_numpy(dx).float() * found.step)
    assert torch.equal(w.grad, torch.from_numpy(dw).float() * found.step)


def patches(x: np.ndarray, kernel: int, geometry: Geometry) -> np.ndarray:
    """Rows [B * H' * W', C * kernel * kernel] of the geometry of one group of channels."""
    side = geometry.padding[0]
    padded = np.pad(x, ((0, 0), (0, 0), (side, side), (side, side)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))
    view = view[:, :, :: geometry.stride[0], :: geometry.stride[1]]
    return view.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * kernel * kernel)


@pytest.mark.parametrize(
    ("kernel", "geometry"),
    [
        (3, Geometry(padding=(1, 1))),
        (3, Geometry((2, 2), (1, 1))),
        (1, Geometry((2, 2))),
        (3, Geometry(padding=(1, 1), groups=2)),
    ],
)
def test_convolution_products_are_those_of_the_integer_kernel(kernel: int, geometry: Geometry) -> None:
    group = geometry.groups
    x, w = integers((3, 8, 9, 9), 0, 15, 2), integers((12, 8 // group, kernel, kernel), -7, 7, 3)
    quantizer = Recording()
    product = integer_convolution(x, w, Arithmetic(15, 7, quantizer), *geometry)
    product.backward(gradient(tuple(product.shape)))
    found = quantizer.last[0]
    x_codes, w_codes, g_codes = int64(x), int64(w), int64(found.codes)
    channels, samples = (powers.reshape(-1, 1, 1, 1) for powers in factors(found))
    for_dx, for_dw = g_codes // samples, g_codes // channels.reshape(1, -1, 1, 1)
    for part in range(group):
        inputs, outputs = (slice(part * size // group, (part + 1) * size // group) for size in (8, 12))
        rows, columns = patches(x_codes[:, inputs], kernel, geometry), w_codes[outputs].reshape(12 // group, -1)
        by_position = [codes[:, outputs].transpose(0, 2, 3, 1).reshape(-1, 12 // group) for codes in (for_dx, for_dw)]
        expected = kernel_product(rows, columns.T)
        assert np.array_equal(int64(product)[:, outputs].transpose(0, 2, 3, 1).reshape(expected.shape), expected)
        sums = channels[outputs].reshape(-1, 1) * kernel_product(by_position[1].T, rows)
        expected_dw = torch.from_numpy(sums).float() * found.step
        assert torch.equal(w.grad[outputs].reshape(expected_dw.shape), expected_dw)
        # dX: what each position gives to its window, added up where geometry overlap.
        given = kernel_product(by_position[0], columns).reshape(3, *product.shape[2:], -1, kernel, kernel)
        expected_dx = torch.from_numpy(samples * scattered(given, x.shape[2], geometry)).float() * found.step
        assert torch.equal(x.grad[:, inputs], expected_dx)


def scattered(given: np.ndarray, size: int, geometry: Geometry) -> np.ndarray:
    """Sums [B, C, size, size] of window contributions [B, H', W', C, kernel, kernel]."""
    batch, height, width, channels, kernel = given.shape[:5]
    side, stride = geometry.padding[0], geometry.stride[0]
    total = np.zeros((batch, channels, size + 2 * side + kernel, size + 2 * side + kernel), np.int64)
    for row in range(height):
        for column in range(width):
            place = np.s_[:, :, row * stride : row * stride + kernel, column * stride : column * stride + kernel]
            total[place] += given[:, row, column]
    return total[:, :, side : side + size, side : side + size]


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_gradients_are_unbiased(bits: int) -> None:
    x, w = integers((6, 5, 6, 6), -7, 7, 4), integers((7, 5, 3, 3), -7, 7, 5)
    geometry, dy = Geometry(padding=(1, 1)), gradient((6, 7, 6, 6))
    exact = torch.autograd.grad(integer_convolution(x, w, Arithmetic(7, 7, None), *geometry), (x, w), dy)
    quantizer = ShiftQuantizer(bits, 9 - bits, generator=torch.Generator().manual_seed(bits))
    arithmetic, draws = Arithmetic(7, 7, quantizer), 200
    product = integer_convolution(x, w, arithmetic, *geometry)
    found = [torch.autograd.grad(product, (x, w), dy, retain_graph=True) for _ in range(draws)]
    for wanted, samples in zip(exact, zip(*found, strict=True), strict=True):
        values = torch.stack(samples).double()
        z = (values.mean(0) - wanted) / (values.std(0) / draws**0.5).clamp_min(1e-9)
        assert z.abs().max() < 5
        assert 0.8 < z.std() < 1.25


def test_sums_beyond_float32_are_exact() -> None:
    x, w = integers((4, 2001), 121, 127, 6), integers((3, 2001), 121, 127, 7)
    product = integer_linear(x, w, Arithmetic(127, 127, None))
    exact = int64(x) @ int64(w).T
    assert exact.min() > 1 << 24
    assert np.array_equal(product.detach().numpy(), exact.astype(np.float32))


def test_containers() -> None:
    assert container((1 << 24) - 1, "sums") == torch.float32
    assert container(1 << 24, "sums") == torch.float64
    assert container((1 << 31) - 1, "sums") == torch.float64
    with pytest.raises(UsageError, match="beyond the accumulators"):
        container(1 << 31, "sums")


def test_long_sums_of_weight_gradients_are_exact() -> None:
    x, w = integers((150_000, 1), 120, 127, 8), integers((1, 1), -127, 127, 9)
    quantizer = Recording(8, 1)
    integer_linear(x, w, Arithmetic(127, 127, quantizer)).backward(torch.ones(150_000, 1))
    found = quantizer.last[0]
    exact = int64(found.codes).ravel() @ int64(x).ravel()
    assert exact > 1 << 31
    assert w.grad.item() == (torch.tensor(float(exact)) * found.step).item()


def test_a_layer_whose_sums_could_leave_int32_is_refused() -> None:
    x, w = integers((1, 140_000), -127, 127, 8), integers((1, 140_000), -127, 127, 9)
    with pytest.raises(UsageError, match="forward product could reach"):
        integer_linear(x, w, Arithmetic(127, 127, None))


def test_float_gradients_are_those_of_torch() -> None:
    x, w = integers((5, 9), 0, 15, 10), integers((4, 9), -7, 7, 11)
    dy: Any = gradient((5, 4))
    ours = torch.autograd.grad(integer_linear(x, w, Arithmetic(15, 7, None)), (x, w), dy)
    theirs = torch.autograd.grad(torch.nn.functional.linear(x, w), (x, w), dy)
    assert all(torch.allclose(one, other) for one, other in zip(ours, theirs, strict=True))
