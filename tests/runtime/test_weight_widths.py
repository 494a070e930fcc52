# SPDX-License-Identifier: Apache-2.0
"""One file at several weight widths: the library rounds 8-bit codes exactly as numpy does, and only where asked."""

from __future__ import annotations

import dataclasses
from typing import Any

import conv_oracle
import numpy as np
import one_node
import onnxruntime as ort
import pytest
from conv_oracle import Geometry
from hypothesis import given
from hypothesis import strategies as st
from oracle import Weights, pack, random_weights, shift_matmul

from edgefold.passes.quantization.narrow_widths import narrowed
from edgefold.runtime import ops_library

WIDTHS = (7, 6, 5, 4, 3, 2)


def session(proto: bytes, width: str | None, with_library: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if width is not None:
        options.add_session_config_entry("edgefold.weight_bits", width)
    if with_library:
        options.register_custom_ops_library(str(ops_library()))
    return ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])


def at_width(weights: Weights, scales: np.ndarray, width: int) -> Weights:
    return dataclasses.replace(weights, integers=narrowed(weights.integers, width), scales=scales[WIDTHS.index(width)])


def stored(rng: np.random.Generator, k: int, n: int, method: str = "rtn") -> tuple[Weights, dict[str, Any]]:
    """8-bit weights of groups of many sizes, and the attributes that let them run at every width."""
    weights = random_weights(rng, k, n, 8, method)
    if method == "rtn":
        spread = np.exp2(-rng.integers(0, 7, (-(-k // 32), n))).repeat(32, axis=0)[:k]
        integers = np.rint(rng.uniform(-127, 127, (k, n)) * spread).astype(np.int8)
        weights = dataclasses.replace(weights, integers=integers, codes=pack((integers.astype(int) + 128), 8))
    scales = rng.uniform(0.5, 2, (len(WIDTHS), n)).astype(np.float32)
    return weights, {"narrow_bits": list(WIDTHS), "narrow_scales": scales.ravel().tolist()}


def scales_of(attributes: dict[str, Any]) -> np.ndarray:
    return np.array(attributes["narrow_scales"], np.float32).reshape(len(WIDTHS), -1)


@pytest.mark.parametrize("width", WIDTHS)
def test_products(width: int) -> None:
    rng = np.random.default_rng(width)
    for m, k, n in [(1, 1, 1), (3, 33, 17), (9, 130, 50)]:
        weights, attributes = stored(rng, k, n)
        x, bias = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal(n).astype(np.float32)
        proto = one_node.matmul(weights, bias, 0.0, -127, 127, **attributes)
        y = session(proto, str(width)).run(None, {"x": x})[0]
        narrow = at_width(weights, scales_of(attributes), width)
        np.testing.assert_array_equal(y, shift_matmul(x, narrow, bias, 0.0, -127, 127))


@pytest.mark.parametrize("width", [6, 4])
def test_convolutions(width: int) -> None:
    rng = np.random.default_rng(width)
    for g in (
        Geometry(19, 35, (3, 3), (7, 9), pads=(1, 1, 1, 1)),
        Geometry(20, 20, (3, 3), (9, 9), pads=(1, 1, 1, 1), group=20),
    ):
        weights, attributes = stored(rng, g.k, g.out_channels)
        bias = np.zeros(1, np.float32)
        x = rng.standard_normal((2, g.in_channels, *g.size)).astype(np.float32)
        y = session(conv_oracle.model(weights, bias, 0.02, -127, 127, g, **attributes), str(width)).run(None, {"x": x})
        narrow = at_width(weights, scales_of(attributes), width)
        np.testing.assert_array_equal(y[0], conv_oracle.shift_conv(x, narrow, bias, 0.02, -127, 127, g))


@pytest.mark.parametrize("width", [6, 3])
def test_embeddings(width: int) -> None:
    weights, attributes = stored(np.random.default_rng(0), 70, 20)
    ids = np.array([[0, 19], [-1, 7]])
    y = session(one_node.gather(weights, **attributes), str(width)).run(None, {"x": ids})[0]
    narrow = at_width(weights, scales_of(attributes), width)
    np.testing.assert_array_equal(y, (narrow.integers * narrow.scales).T[ids])


@pytest.mark.parametrize("width", [None, "8"])
def test_the_stored_width_is_the_default(width: str | None) -> None:
    weights, attributes = stored(np.random.default_rng(0), 40, 20)
    x, bias = np.ones((2, 40), np.float32), np.zeros(1, np.float32)
    proto = one_node.matmul(weights, bias, 0.0, -127, 127, **attributes)
    expected = shift_matmul(x, weights, bias, 0.0, -127, 127)
    np.testing.assert_array_equal(session(proto, width).run(None, {"x": x})[0], expected)


def test_a_node_without_the_width_keeps_its_own() -> None:
    weights = random_weights(np.random.default_rng(0), 40, 20, 4)
    x, bias = np.ones((2, 40), np.float32), np.zeros(1, np.float32)
    one_width = one_node.matmul(weights, bias, 0.0, -127, 127)
    expected = shift_matmul(x, weights, bias, 0.0, -127, 127)
    np.testing.assert_array_equal(session(one_width, "3").run(None, {"x": x})[0], expected)


@pytest.mark.parametrize("width", ["9", "1", "", "four", "44"])
def test_what_is_no_width_is_refused(width: str) -> None:
    with pytest.raises(Exception, match=r"edgefold\.weight_bits: expected 2 to 8"):
        session(b"", width)


@pytest.mark.parametrize(
    ("method", "changes"),
    [("lut", {}), ("rtn", {"narrow_scales": [1.0] * 19}), ("rtn", {"narrow_bits": [8, 4]})],
)
def test_widths_that_do_not_fit_their_matrix_are_refused(method: str, changes: dict[str, Any]) -> None:
    weights, attributes = stored(np.random.default_rng(0), 40, 20, method)
    proto = one_node.matmul(weights, np.zeros(1, np.float32), 0.0, -127, 127, **(attributes | changes))
    with pytest.raises(Exception, match="narrow_bits needs one table of 8-bit levels"):
        session(proto, "4")


@given(st.integers(0, 2**32 - 1), st.sampled_from(WIDTHS))
def test_rounding_leaves_no_more_than_half_a_step_or_what_clipping_costs(seed: int, width: int) -> None:
    """Every group ends within half its step of the 8-bit integers wherever the largest level reaches them."""
    rng = np.random.default_rng(seed)
    integers = np.rint(rng.uniform(-127, 127, (40, 3)) * np.exp2(-rng.integers(0, 7, 3))).astype(np.int8)
    narrow = narrowed(integers, width).astype(int)
    top = (2 ** (width - 1) - 1) << (8 - width)
    plain = np.clip((integers.astype(int) + (1 << 8 - width >> 1)) >> 8 - width, -(top >> 8 - width), top >> 8 - width)
    for start in (0, 32):
        group = slice(start, start + 32)
        chosen = np.square(integers[group] - narrow[group]).sum(axis=0)
        assert np.all(chosen <= np.square(integers[group] - (plain[group] << 8 - width)).sum(axis=0))
    assert np.abs(narrow).max() <= top
