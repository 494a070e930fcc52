# SPDX-License-Identifier: Apache-2.0
"""The proof that a file scores the same with and without the library: what rounding explains, and what it does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgefold.end_to_end import prove_end_to_end
from edgefold.errors import VerificationError
from edgefold.scoring.evaluate import Evaluation

AS_USERS_RUN, AS_WRITTEN = True, False
LIBRARY, STOCK = True, False


def scores(**rows: list[float]) -> Callable[..., Evaluation]:
    """Cosines of the samples by run; a run that is not given is not to be made."""
    names = {
        (LIBRARY, AS_USERS_RUN): "library",
        (STOCK, AS_USERS_RUN): "stock",
        (LIBRARY, AS_WRITTEN): "library_as_written",
        (STOCK, AS_WRITTEN): "stock_as_written",
    }

    def score(*, library: bool, optimize: bool) -> Evaluation:
        samples = np.array(rows[names[library, optimize]])[:, None]
        interval = (float(samples.min()), float(samples.max()))
        value = float(samples.mean())
        return Evaluation("cosine", value, interval, len(samples), 0.0, "lower", "calibration", "reference", samples)

    return score


def test_agreement_needs_two_runs() -> None:
    proof = prove_end_to_end(scores(library=[0.99, 0.98, 0.97], stock=[0.9901, 0.9801, 0.9701]), "model.onnx")
    assert proof.steady
    assert not proof.findings()


def test_a_network_that_amplifies_rounding_agrees_as_it_is_written() -> None:
    """Figures of the PP-OCR detector with 8-bit weights."""
    ours = [0.982463, 0.996166, 0.992072]
    rows = {
        "library": ours,
        "library_as_written": ours,
        "stock_as_written": ours,
        "stock": [0.988465, 0.996597, 0.995373],
    }
    proof = prove_end_to_end(scores(**rows), "model.onnx")
    assert not proof.steady
    assert "0.990234 with the library and 0.993478 in stock" in proof.findings()[0]


def test_a_wrong_kernel_is_refused_in_a_steady_network() -> None:
    """It differs from its bodies as they are written, and the optimizer changes nothing."""
    ours, stock = [0.95, 0.96, 0.94], [0.99, 0.995, 0.98]
    rows = {"library": ours, "library_as_written": ours, "stock": stock, "stock_as_written": stock}
    with pytest.raises(VerificationError, match=r"model.onnx: cosine is 0.95 with the library and 0.988333 in stock"):
        prove_end_to_end(scores(**rows), "model.onnx")


@pytest.mark.parametrize(("loss", "refused"), [(0.005, False), (0.02, True)])
def test_functions_that_kernels_approximate_may_do_what_reordering_does(loss: float, refused: bool) -> None:
    """In an unsteady network, where nothing agrees in every bit: a control without the library sets the bound."""
    stock = np.array([0.984, 0.996, 0.992])
    ours = list(stock - loss)
    rows = {"library": ours, "library_as_written": ours, "stock_as_written": list(stock), "stock": list(stock + 0.003)}
    score = scores(**rows)
    if refused:
        with pytest.raises(VerificationError, match="cosine"):
            prove_end_to_end(score, "model.onnx")
    else:
        assert not prove_end_to_end(score, "model.onnx").steady


def test_no_number_is_refused() -> None:
    nothing = [float("nan")] * 3
    rows = {"library": nothing, "library_as_written": nothing, "stock": [0.9] * 3, "stock_as_written": [0.9] * 3}
    with pytest.raises(VerificationError, match="nan with the library"):
        prove_end_to_end(scores(**rows), "model.onnx")
