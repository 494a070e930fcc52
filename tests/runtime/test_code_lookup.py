# SPDX-License-Identifier: Apache-2.0
"""CodeLookup: kernel, function body and numpy agree on every byte."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from fused_conv import TYPES, model, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto


def lookup(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    kind: str,
    entries: int = 256,
    y_dtype: int | None = None,
    x_type: npt.DTypeLike = np.uint8,
) -> tuple[bytes, dict[str, np.ndarray]]:
    low, high, dtype = TYPES[kind]
    table = rng.integers(low, high + 1, entries).astype(np.uint8 if low == 0 else np.int8)
    feeds = {"x": rng.integers(0, 256, shape).astype(x_type)}
    attributes = {"y_dtype": dtype if y_dtype is None else y_dtype}
    proto = model("CodeLookup", ["x", "table"], feeds, {"table": table}, dtype, attributes)
    return proto, feeds | {"table": table}


@settings(max_examples=12, deadline=None)
@given(
    x_type=st.sampled_from([np.uint8, np.int8]),
    kind=st.sampled_from(["u8", "s8"]),
    shape=st.tuples(st.integers(0, 2), st.integers(1, 400), st.integers(1, 40), st.integers(1, 5)),
    seed=st.integers(0, 99),
)
def test_codes_are_those_of_the_table(x_type: type, kind: str, shape: tuple[int, ...], seed: int) -> None:
    proto, given_ = lookup(np.random.default_rng(seed), shape, kind, x_type=x_type)
    feeds, expected = {"x": given_["x"]}, given_["table"][given_["x"].view(np.uint8)]
    got = run(proto, feeds, library=True, threads=2)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(run(proto, feeds, library=False), expected)


@pytest.mark.parametrize(
    ("x_type", "entries", "y_dtype", "message"),
    [
        (np.float32, 256, None, "x has element type 1; expected uint8 or int8"),
        (np.uint8, 255, None, r"table has shape \[255\]; expected \[256\]"),
        (np.int8, 256, TensorProto.FLOAT, "'y_dtype' is 1; expected 2 to 2"),
    ],
)
def test_malformed_nodes_are_refused(x_type: type, entries: int, y_dtype: int | None, message: str) -> None:
    proto, feeds = lookup(np.random.default_rng(0), (1, 2, 3, 4), "u8", entries, y_dtype, x_type)
    with pytest.raises(Exception, match=message):
        run(proto, {"x": feeds["x"]}, library=True)
