# SPDX-License-Identifier: Apache-2.0
"""QuantizeRows and CachedAttention against numpy, against ShiftAttention on the same numbers, and functions alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import test_shift_attention as floats
from onnx import TensorProto, helper
from test_shift_attention import NO_MASK, rows_codes

from edgefold.errors import EdgefoldError
from edgefold.float_caches import quantize_rows as numpy_rows
from edgefold.ops import function_protos
from edgefold.runtime import ops_library

Arrays = dict[str, np.ndarray]


def model(feeds: Arrays, *, functions: bool, scale: float = 0.25, causal: int = 0) -> bytes:
    node = helper.make_node("CachedAttention", list(feeds), ["y"], domain="ai.edgefold", scale=scale, causal=causal)
    return _one(node, feeds, {"y": TensorProto.FLOAT}, functions)


def quantize_rows(*, functions: bool, rank: int = 3) -> bytes:
    node = helper.make_node("QuantizeRows", ["x"], ["codes", "scales"], domain="ai.edgefold")
    outputs = {"codes": TensorProto.INT8, "scales": TensorProto.FLOAT}
    return _one(node, {"x": np.zeros((1,) * rank, np.float32)}, outputs, functions)


def _one(node: Any, feeds: Arrays, outputs: dict[str, int], functions: bool) -> bytes:
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim)
            for n, a in feeds.items()
        ],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.edgefold", 1)]
    bodies = function_protos(21, [node.op_type]) if functions else []
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, functions=bodies, ir_version=10)
    return bytes(made.SerializeToString())


def opened(made: bytes, stock: bool, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if not stock:
        try:
            options.register_custom_ops_library(str(ops_library()))
        except EdgefoldError as missing:
            pytest.skip(str(missing))
    return ort.InferenceSession(made, options)


def random_cache(
    rng: np.random.Generator, heads: tuple[int, int, int], positions: tuple[int, int], sizes: tuple[int, int]
) -> Arrays:
    """Inputs of CachedAttention: (batch, heads, heads of keys), (rows, keys), (depth, values)."""
    (batch, query_heads, key_heads), (rows, keys), (depth, values) = heads, positions, sizes
    feeds = {"q": rng.standard_normal((batch, query_heads, rows, depth)).astype(np.float32)}
    for name, size in (("k", depth), ("v", values)):
        x = rng.standard_normal((batch, key_heads, keys, size)).astype(np.float32)
        feeds[f"{name}_codes"], feeds[f"{name}_scales"] = numpy_rows(x)
    return feeds | {"mask": rng.standard_normal((batch, 1, rows, keys)).astype(np.float32)}


def run(feeds: Arrays, *, stock: bool = False, threads: int = 1, **options: Any) -> Any:
    return opened(model(feeds, functions=stock, **options), stock, threads).run(None, feeds)[0]


def rows_of(x: np.ndarray, stock: bool) -> tuple[np.ndarray, np.ndarray]:
    codes, scales = opened(quantize_rows(functions=stock, rank=x.ndim), stock).run(None, {"x": x})
    return codes, scales


@pytest.mark.parametrize("stock", [False, True], ids=["kernel", "function"])
def test_rows_are_codes_with_a_scale_each(stock: bool) -> None:
    rng = np.random.default_rng(0)
    for columns in (1, 8, 31, 32, 33, 64, 200):
        sizes = np.geomspace(1e-3, 1e3, 5, dtype=np.float32)[:, None]
        x = rng.standard_normal((3, 5, columns)).astype(np.float32) * sizes
        x[0, 0] = 0
        x[0, 1] = 1e-31
        codes, scales = rows_of(x, stock)
        expected, steps = rows_codes(x)
        np.testing.assert_array_equal(codes, expected)
        np.testing.assert_array_equal(scales, steps)
        assert codes.dtype == np.int8
        assert scales.shape == (3, 5, 1)
        np.testing.assert_array_equal(numpy_rows(x)[0], codes)
        np.testing.assert_array_equal(numpy_rows(x)[1], scales)
    assert [array.shape for array in rows_of(np.zeros((2, 0, 7), np.float32), stock)] == [(2, 0, 7), (2, 0, 1)]


def test_rows_of_nothing_are_refused() -> None:
    with pytest.raises(Exception, match=r"QuantizeRows: x has shape \[2,3,0\]; expected rows of at least one element"):
        rows_of(np.zeros((2, 3, 0), np.float32), False)


CASES = [
    ((1, 1, 1), (1, 1), (1, 1)),
    ((2, 3, 3), (1, 70), (16, 20)),
    ((1, 4, 1), (1, 130), (64, 64)),
    ((2, 6, 2), (3, 33), (33, 17)),  # nine lines: panels
    ((1, 4, 2), (40, 45), (32, 32)),
    ((1, 2, 2), (8, 19), (80, 128)),  # eight lines: rows
]


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gives_the_bits_of_attention_over_floats(case: Any, causal: int) -> None:
    (batch, heads, key_heads), (rows, keys), (depth, values) = case
    rng = np.random.default_rng(keys)
    q = rng.standard_normal((batch, heads, rows, depth)).astype(np.float32)
    k = rng.standard_normal((batch, key_heads, keys, depth)).astype(np.float32)
    v = rng.standard_normal((batch, key_heads, keys, values)).astype(np.float32)
    for shape in [(1, 1, 1, 1), (batch, 1, 1, keys), (1, heads, rows, keys), (batch, heads, rows, 1)]:
        mask = np.where(rng.random(shape) < 0.2, -1e4, rng.normal(size=shape)).astype(np.float32)
        for stock in (False, True):
            feeds = {"q": q}
            for name, x in (("k", k), ("v", v)):
                feeds[f"{name}_codes"], feeds[f"{name}_scales"] = rows_of(x, stock)
            y = run(feeds | {"mask": mask}, stock=stock, causal=causal)
            expected = floats.run(q, k, v, mask, stock=stock, causal=causal)
            np.testing.assert_array_equal(y, expected)
        repeated = [np.repeat(x, heads // key_heads, 1) for x in (k, v)]
        defined = floats.on_integers(q, *repeated, mask, bool(causal))
        # A weight whose exponential lies at a half may round the other way: 1 of at least 255, times a value.
        assert np.abs(y - defined).max() <= np.abs(v).max() / 255


def test_batches_threads_and_nothing_at_all() -> None:
    rng = np.random.default_rng(5)
    feeds = random_cache(rng, (3, 4, 2), (1, 50), (32, 32))
    y = run(feeds)
    np.testing.assert_array_equal(run(feeds, threads=3), y)
    for sample in range(3):
        alone = {name: array[sample : sample + 1] for name, array in feeds.items()}
        np.testing.assert_array_equal(run(alone), y[sample : sample + 1])
    empty = random_cache(rng, (1, 2, 2), (2, 0), (8, 8))
    assert np.all(run(empty) == 0)
    assert run(random_cache(rng, (0, 2, 2), (2, 3), (8, 8))).shape == (0, 2, 2, 8)


def test_codes_at_the_end_of_their_range() -> None:
    """No quantizer makes -128, but a cache that is fed may hold it."""
    feeds = random_cache(np.random.default_rng(2), (1, 2, 1), (1, 300), (64, 64))
    feeds["k_codes"][...] = -128
    feeds["v_codes"][...] = -128
    feeds["mask"] = NO_MASK
    y = run(feeds)
    np.testing.assert_allclose(y, run(feeds, stock=True), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k_codes": (1, 2, 8, 5)}, "q, k and v have shapes"),
        ({"v_codes": (1, 2, 7, 4)}, "q, k and v have shapes"),
        ({"q": (1, 3, 8, 4)}, "H a multiple of G"),
        ({"q": (1, 1, 8, 4)}, "H a multiple of G"),
        ({"k_scales": (1, 2, 8)}, r"k_scales has shape \[1,2,8\]; expected \[1,2,8,1\], one for each row of codes"),
        ({"v_scales": (1, 2, 1, 1)}, r"v_scales has shape \[1,2,1,1\]; expected \[1,2,8,1\]"),
        ({"mask": (1, 1, 1, 7)}, r"mask has shape \[1,1,1,7\]; it must broadcast to \[1,4,8,8\]"),
    ],
)
def test_wrong_shapes_are_refused(change: dict[str, tuple[int, ...]], message: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {"q": (1, 4, 8, 4)}
    for name in "kv":
        shapes |= {f"{name}_codes": (1, 2, 8, 4), f"{name}_scales": (1, 2, 8, 1)}
    shapes |= {"mask": (1, 1, 1, 1)} | change
    feeds = {n: np.ones(shape, np.int8 if n.endswith("codes") else np.float32) for n, shape in shapes.items()}
    with pytest.raises(Exception, match=message):
        run(feeds)
