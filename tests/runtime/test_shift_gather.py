# SPDX-License-Identifier: Apache-2.0
"""ShiftGather in ONNX Runtime against numpy: a row of an embedding is a column of W."""

from __future__ import annotations

import numpy as np
import one_node
import onnxruntime as ort
import pytest
from onnx import TensorProto
from oracle import Weights, random_weights

from edgefold.errors import EdgefoldError
from edgefold.runtime import ops_library


def session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        options.register_custom_ops_library(str(ops_library()))
    except EdgefoldError as missing:
        pytest.skip(str(missing))
    return ort.InferenceSession(model, options)


def rows_of(weights: Weights, ids: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray((weights.integers.astype(np.float32) * weights.scales).T)[ids]


@pytest.mark.parametrize("method", ["rtn", "shift", "lut"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_equals_numpy(bits: int, method: str) -> None:
    rng = np.random.default_rng(bits)
    for k, n in [(1, 1), (33, 17), (66, 100), (131, 40)]:
        weights = random_weights(rng, k, n, bits, method)
        ids = rng.integers(-n, n, (3, 13))
        for kind, element in ((np.int64, TensorProto.INT64), (np.int32, TensorProto.INT32)):
            y = session(one_node.gather(weights, ids=element)).run(None, {"x": ids.astype(kind)})[0]
            np.testing.assert_array_equal(y, rows_of(weights, ids))


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_any_rank_and_no_ids(shape: tuple[int, ...]) -> None:
    weights = random_weights(np.random.default_rng(0), 20, 18, 4)
    ids = np.random.default_rng(1).integers(0, 18, shape)
    y = session(one_node.gather(weights, rank=len(shape))).run(None, {"x": ids})[0]
    assert y.shape == (*shape, 20)
    np.testing.assert_array_equal(y, rows_of(weights, ids))


@pytest.mark.parametrize("bad", [18, -19, 2**62])
def test_an_id_outside_the_table_is_refused(bad: int) -> None:
    weights = random_weights(np.random.default_rng(0), 20, 18, 4)
    with pytest.raises(Exception, match=f"id {bad} is outside the table of 18 rows"):
        session(one_node.gather(weights)).run(None, {"x": np.array([[0, bad]])})


def test_ids_must_be_integers() -> None:
    weights = random_weights(np.random.default_rng(0), 20, 18, 4)
    model = session(one_node.gather(weights, ids=TensorProto.FLOAT))
    with pytest.raises(Exception, match="expected int32 or int64"):
        model.run(None, {"x": np.zeros((1, 1), np.float32)})


def test_shapes_are_inferred_with_symbolic_names() -> None:
    import onnx

    model = onnx.load_from_string(one_node.gather(random_weights(np.random.default_rng(0), 20, 18, 4)))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert session(model.SerializeToString()).get_outputs()[0].shape == ["d0", "d1", 20]
