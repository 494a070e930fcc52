# SPDX-License-Identifier: Apache-2.0
"""End to end: does a file score the same by the library and by the function bodies that it carries?

That every node agrees on its own does not say what a network makes of the last bit of a sum. ONNX Runtime's optimizer
multiplies scales into the weights of a body, so that its sums end in other bits; a quantizer behind turns such a bit
into a step; and a deep network may turn a few steps into another output. The PP-OCR detector with 8-bit weights does:
stock ONNX Runtime differs from itself, with its optimizer and without, by 0.08 of the output, while the library and the
bodies without the optimizer agree in every bit. So the file is judged as users run it first, then as it is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from edgefold.errors import VerificationError
from edgefold.scoring.evaluate import Evaluation, paired_difference

SAMPLES = 32
TOLERANCE = 1e-3  # of the metric


@dataclasses.dataclass(frozen=True)
class EndToEnd:
    """Two scores of one file on the same samples, as users run it.

    Attributes:
        ours: by the library.
        stock: by the function bodies in stock ONNX Runtime.
        steady: whether they agree; else rounding alone is what sets them apart.
    """

    ours: Evaluation
    stock: Evaluation
    steady: bool

    def findings(self) -> tuple[str, ...]:
        """What a user should know of it."""
        if self.steady:
            return ()
        return (
            f"Rounding alone moves the metric: {_both(self.ours, self.stock)}, whose optimizer adds in another order; "
            "node by node both compute the same. Expect differences of this size between devices; more layers left in "
            "float (--exclude) make the model less sensitive.",
        )


def prove_end_to_end(score: Callable[..., Evaluation], name: str) -> EndToEnd:
    """Score some samples by function bodies and by the library; the metric must be the same.

    A class that two labels share to the last bit may go either way, so a difference within its interval passes. Where
    the scores differ, both are taken again with ONNX Runtime's optimizer off, so that both follow the order of the
    operators that the file holds. What is left then can come from activation functions alone, which kernels
    approximate, and is measured by a control in which the library has no part: what the optimizer does to the score in
    stock ONNX Runtime, which is a rewriting of the same arithmetic. Twice the far end of the 95 % interval of that is
    allowed, since the control is one draw.

    Args:
        score: of the file on the same samples; takes `library` and `optimize`.
        name: of the file, for the error.

    Raises:
        VerificationError: names both values.
    """
    ours, stock = score(library=True, optimize=True), score(library=False, optimize=True)
    if _agree(ours, stock):
        return EndToEnd(ours, stock, steady=True)
    ours_as_written, stock_as_written = score(library=True, optimize=False), score(library=False, optimize=False)
    if not _agree(ours_as_written, stock_as_written):
        left, _ = paired_difference(ours_as_written, stock_as_written)
        _, control = paired_difference(stock, stock_as_written)
        if not abs(left) <= 2 * max(map(abs, control)):
            raise VerificationError(f"{name}: {_both(ours_as_written, stock_as_written)} on the same samples")
    return EndToEnd(ours, stock, steady=False)


def _agree(ours: Evaluation, stock: Evaluation) -> bool:
    difference, (low, high) = paired_difference(ours, stock)
    return abs(difference) <= TOLERANCE * abs(stock.value) or low <= 0 <= high


def _both(ours: Evaluation, stock: Evaluation) -> str:
    return (
        f"{ours.metric} is {ours.value:.6g} with the library and {stock.value:.6g} in stock ONNX Runtime "
        f"({ours.samples} samples)"
    )
