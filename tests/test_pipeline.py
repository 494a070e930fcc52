# SPDX-License-Identifier: Apache-2.0
"""One step of a recipe: what becomes of a pass that cannot do its work."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
import pytest

from edgefold.passes import Context, Effect, Notes, Pass, PreconditionError, SkipReason
from edgefold.pipeline import Inputs, run_step

TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { [a] y = Abs (x) }"""


class FindsOut(Pass, frozen=True, kw_only=True):
    """Cannot take any model, which it says before it begins or when it is half through."""

    late: bool
    effect: ClassVar[Effect] = Effect.LOSSY

    def requires(self, model: ir.Model) -> None:
        if not self.late:
            raise PreconditionError("a", "Abs is not wanted")

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        model.graph[0].op_type = "Neg"
        raise PreconditionError("a", "Abs is not wanted")


@pytest.mark.parametrize("late", [False, True])
def test_a_pass_that_the_model_cannot_take_leaves_it_and_says_why(late: bool) -> None:
    model = ir.from_onnx_text(TEXT)
    inputs = Inputs(probe=None, calibration=None, shapes={})
    result, record = run_step(model, FindsOut(late=late), inputs, Context())
    assert [node.op_type for node in result.graph] == ["Abs"]
    (skip,) = record.notes.skips
    assert (skip.node, skip.reason, skip.detail) == ("model", SkipReason.NOT_APPLICABLE, "a: Abs is not wanted")
