# SPDX-License-Identifier: Apache-2.0
"""ShiftAttention: the kernel against numpy on integers, its function against the kernel, both against floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edgefold.errors import EdgefoldError
from edgefold.ops import function_protos
from edgefold.runtime import ops_library

NO_MASK = np.zeros((1, 1, 1, 1), np.float32)


def model(arrays: list[np.ndarray], *, functions: bool, scale: float = 0.25, causal: int = 0) -> bytes:
    names = ["q", "k", "v", "mask"]
    node = helper.make_node("ShiftAttention", names, ["y"], domain="ai.edgefold", scale=scale, causal=causal)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * a.ndim)
            for n, a in zip(names, arrays, strict=True)
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.edgefold", 1)]
    bodies = function_protos(21, ["ShiftAttention"]) if functions else []
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, functions=bodies, ir_version=10)
    return bytes(made.SerializeToString())


def run(q: Any, k: Any, v: Any, mask: Any = NO_MASK, *, stock: bool = False, threads: int = 1, **options: Any) -> Any:
    arrays = [np.asarray(array, np.float32) for array in (q, k, v, mask)]
    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4
    session_options.intra_op_num_threads = threads
    if not stock:
        try:
            session_options.register_custom_ops_library(str(ops_library()))
        except EdgefoldError as missing:
            pytest.skip(str(missing))
    session = ort.InferenceSession(model(arrays, functions=stock, **options), session_options)
    return session.run(None, dict(zip(("q", "k", "v", "mask"), arrays, strict=True)))[0]


def rows_codes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scales = np.abs(x).max(-1, keepdims=True) / np.float32(127)
    scales = np.where(scales > 1e-32, scales, np.float32(0))
    return np.clip(np.rint(x / np.where(scales > 0, scales, np.float32(np.inf))), -127, 127).astype(np.int64), scales


def visible(rows: int, keys: int) -> np.ndarray:
    return np.arange(keys) <= np.arange(rows)[:, None] + keys - rows


def on_integers(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray, causal: bool) -> np.ndarray:
    """As the operator is worded; only exp is numpy's."""
    (qc, qs), (kc, ks), (vc, vs) = rows_codes(q), rows_codes(k), rows_codes(v)
    scores = (qc @ kc.swapaxes(-1, -2)).astype(np.float32) * (qs * (ks.swapaxes(-1, -2) * np.float32(0.25))) + mask
    scores = np.where(visible(q.shape[2], k.shape[2]) | (not causal), scores, np.float32(-np.inf))
    largest = scores.max(-1, keepdims=True)
    exponentials = np.exp(scores - np.where(largest == -np.inf, np.float32(0), largest))
    total = np.rint(exponentials * np.float32(32768)).astype(np.int64).sum(-1, keepdims=True)
    shares = exponentials * vs.swapaxes(-1, -2)
    top = shares.max(-1, keepdims=True)
    weights = np.rint(shares * (np.float32(255) / np.where(top > 1e-30, top, np.float32(np.inf)))).astype(np.int64)
    step = top * np.float32(32768 / 255) / np.maximum(total, 1).astype(np.float32)
    return (weights @ vc).astype(np.float32) * step


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray, causal: bool) -> np.ndarray:
    scores = q.astype(np.float64) @ k.swapaxes(-1, -2) * 0.25 + mask
    scores = np.where(visible(q.shape[2], k.shape[2]) | (not causal), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def case(batch: int, heads: int, rows: int, keys: int, depth: int, values: int) -> list[np.ndarray]:
    rng = np.random.default_rng(rows + keys)
    shapes = [(rows, depth), (keys, depth), (keys, values)]
    return [rng.standard_normal((batch, heads, *shape)).astype(np.float32) for shape in shapes]


SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 7, 7, 5, 9),
    (1, 2, 33, 33, 32, 32),
    (2, 2, 1, 70, 16, 20),
    (1, 1, 65, 130, 64, 40),
]


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_numpy_on_integers(shape: tuple[int, ...], causal: int) -> None:
    q, k, v = case(*shape)
    rng = np.random.default_rng(0)
    for mask_shape in [(1, 1, 1, 1), (shape[0], 1, 1, shape[3]), (1, shape[1], shape[2], shape[3])]:
        mask = np.where(rng.random(mask_shape) < 0.2, -1e4, rng.normal(size=mask_shape)).astype(np.float32)
        y = run(q, k, v, mask, causal=causal)
        # A weight whose exponential lies at a half may round the other way: 1 of at least 255, times a value.
        bound = np.abs(v).max() / 255
        expected = on_integers(q, k, v, mask, bool(causal))
        assert np.abs(y - expected).max() <= bound
        assert np.mean(np.isclose(y, expected, rtol=1e-6, atol=1e-7)) > 0.95
        stock = run(q, k, v, mask, stock=True, causal=causal)
        assert np.abs(y - stock).max() <= bound


def test_error_against_float_attention() -> None:
    """int8 rows and 8-bit weights: about a percent of the result's size, no more."""
    q, k, v = case(2, 4, 64, 64, 32, 32)
    expected = exact(q, k, v, NO_MASK, False)
    error = run(q, k, v) - expected
    assert np.sqrt(np.mean(error**2) / np.mean(expected**2)) < 0.02


@pytest.mark.parametrize("stock", [False, True], ids=["kernel", "function"])
def test_a_cache_gives_what_the_whole_gives(stock: bool) -> None:
    """Position by position, with the keys and values so far alone, against all at once: equal in every bit."""
    q, k, v = case(1, 2, 40, 40, 16, 16)
    v *= np.geomspace(0.1, 10, 40, dtype=np.float32)[:, None]  # later values are larger
    whole = run(q, k, v, causal=1, stock=stock)
    for end in (1, 2, 33, 40):
        step = run(q[:, :, end - 1 : end], k[:, :, :end], v[:, :, :end], stock=stock)
        np.testing.assert_array_equal(step, whole[:, :, end - 1 : end])


def test_what_is_masked_does_not_count() -> None:
    q, k, v = case(1, 1, 4, 8, 8, 8)
    mask = np.zeros((1, 1, 4, 8), np.float32)
    mask[..., 5:] = -np.inf
    mask[0, 0, 2] = -np.inf
    y = run(q, k, v, mask)
    assert np.all(y[0, 0, 2] == 0)
    other_k, other_v = k.copy(), v.copy()
    other_k[:, :, 5:] *= 3
    other_v[:, :, 5:] *= 100
    np.testing.assert_array_equal(run(q, other_k, other_v, mask), y)


def test_values_of_very_different_sizes_and_none() -> None:
    """A key that draws the attention and has hardly a value, as the first token of many language models."""
    q, k, v = case(1, 2, 8, 64, 16, 16)
    k[:, :, 0] = 5 * q.mean(2)
    v[:, :, 0] *= 1e-3
    v[:, :, 1] = 0
    expected = exact(q, k, v, NO_MASK, False)
    error = run(q, k, v) - expected
    assert np.sqrt(np.mean(error**2) / np.mean(expected**2)) < 0.02
    assert np.all(run(q, k, np.zeros_like(v)) == 0)


def test_threads_change_nothing_and_nothing_may_be_empty() -> None:
    q, k, v = case(2, 3, 70, 70, 16, 16)
    np.testing.assert_array_equal(run(q, k, v, threads=3), run(q, k, v))
    assert run(q[:, :, :0], k, v).shape == (2, 3, 0, 16)
    assert np.all(run(q, k[:, :, :0], v[:, :, :0]) == 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": (1, 2, 8, 5)}, "q, k and v have shapes"),
        ({"v": (1, 2, 7, 4)}, "q, k and v have shapes"),
        ({"q": (1, 3, 8, 4)}, "q, k and v have shapes"),
        ({"mask": (1, 1, 1, 7)}, r"mask has shape \[1,1,1,7\]; it must broadcast to \[1,2,8,8\]"),
        ({"mask": (8,)}, r"mask has shape \[8\]"),
    ],
)
def test_wrong_shapes_are_refused(change: dict[str, tuple[int, ...]], message: str) -> None:
    shapes = dict.fromkeys("qkv", (1, 2, 8, 4)) | {"mask": (1, 1, 1, 1)} | change
    with pytest.raises(Exception, match=message):
        run(*(np.ones(shape, np.float32) for shape in shapes.values()))
