# SPDX-License-Identifier: Apache-2.0
"""A file of several weight widths, evaluated and timed at each of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgefold import api
from edgefold.errors import EdgefoldError, UsageError
from edgefold.files.loading import LoadedModel, load_model
from edgefold.files.opset import raise_opset
from edgefold.files.saving import save_model
from edgefold.measuring.bench import bench
from edgefold.passes import Context
from edgefold.passes.quantize import Quantize
from edgefold.runtime import ops_library
from edgefold.session import make_session
from edgefold.weight_widths import at_width, at_widths, stored_widths

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits_cnn" / "model.onnx"


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    try:
        ops_library()
    except EdgefoldError as missing:
        pytest.skip(str(missing))
    model, _ = raise_opset(load_model(DIGITS).model)
    Quantize(weights=8, method="shift", activations="float", widths=(8, 6, 4)).rewrite(model, Context())
    path = tmp_path_factory.mktemp("widths") / "model.onnx"
    save_model(model, path, durable=False)
    return load_model(path)


def test_a_session_runs_at_the_width_asked_for(several: LoadedModel) -> None:
    assert stored_widths(several) == [8, 6, 4]
    feeds = {"image": np.random.default_rng(0).random((4, 1, 8, 8), np.float32)}
    results = [make_session(several.path, config=at_width(several, bits)).run(None, feeds)[0] for bits in (8, 6, 4)]
    np.testing.assert_array_equal(results[0], make_session(several.path).run(None, feeds)[0])
    distances = [np.abs(result - results[0]).max() for result in results]
    assert distances[0] == 0 < distances[1] < distances[2]


def test_every_width_is_a_row_of_bench(several: LoadedModel) -> None:
    rows = bench([several.path], shapes={"image": (1, 1, 8, 8)}, seconds=0.2, widths=at_widths([several], (8, 4))).rows
    assert [row.note for row in rows] == ["weights at 8 bits", "weights at 4 bits"]


def test_a_width_that_the_file_lacks_is_refused(several: LoadedModel) -> None:
    with pytest.raises(UsageError, match=r"weight-bits 5: .* stores weights of 8, 6, 4 bits"):
        at_width(several, 5)
    with pytest.raises(UsageError, match=r"stores one width; compress with quantize\.widths"):
        at_width(load_model(DIGITS), 4)
    with pytest.raises(UsageError, match="no model stores several widths"):
        api.bench([DIGITS], weight_bits=(4,))
    assert at_widths([load_model(DIGITS)], ()) == {}
