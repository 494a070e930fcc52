# SPDX-License-Identifier: Apache-2.0
"""Positions that only fill samples up count neither in moments nor in the error of outputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.calibration import Calibration
from edgefold.padding import padding_mask, real_positions, without_padding
from edgefold.passes._layer_inputs import Rows, Targets
from edgefold.perturbing import perturb

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[n, s, 3] x, int64[n, s] attention_mask, float[n, 4] other, float[1] c) => (float[n, s, 3] y, float[n, 4] z) {
    y = Mul(x, c)
    z = Mul(other, c)
}"""
LENGTHS = ((4, 2, 1), (3, 3))


@pytest.fixture
def model() -> ir.Model:
    made = ir.from_onnx_text(TEXT)
    made.graph.inputs[3].const_value = ir.tensor(np.ones(1, np.float32), name="c")
    made.graph.register_initializer(made.graph.inputs[3])
    return made


def batch(lengths: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = (np.arange(4) < np.array(lengths)[:, None]).astype(np.int64)
    x = rng.standard_normal((len(lengths), 4, 3)).astype(np.float32)
    return {"x": x, "attention_mask": mask, "other": rng.standard_normal((len(lengths), 4)).astype(np.float32)}


def feeds() -> Iterator[dict[str, np.ndarray]]:
    yield from (batch(lengths, seed) for seed, lengths in enumerate(LENGTHS))


def real_rows() -> np.ndarray:
    return np.concatenate([one["x"][one["attention_mask"] != 0] for one in feeds()])


def test_moments_are_those_of_the_real_rows(model: ir.Model) -> None:
    calibration = Calibration(model, feeds)
    found = calibration.moments([Rows("x"), Rows("other")])
    rows = real_rows()
    assert found[Rows("x")].count == len(rows) == 13
    np.testing.assert_allclose(found[Rows("x")].xtx[0], rows.T @ rows, rtol=1e-5)
    assert found[Rows("other")].count == 5  # a row a sample: no mask is for them
    halves = calibration.regressions({Rows("x"): [Targets("y")]}, calibration)[Rows("x")]
    assert (halves.even.count, halves.odd.count) == (7, 6)
    np.testing.assert_allclose(halves.whole.xty[0], rows.T @ rows, rtol=1e-5)


def test_a_sample_of_rows_holds_real_ones_alone(model: ir.Model) -> None:
    found = Calibration(model, feeds).rows([Rows("x")], 6)[Rows("x")][0]
    assert len(found) == 6
    assert {tuple(row) for row in found} < {tuple(row) for row in real_rows()}


def test_rows_of_full_samples_and_of_other_masks_all_count(model: ir.Model) -> None:
    full = {**batch((4, 4), 0)}
    assert real_positions(full) is None
    assert Calibration(model, lambda: iter([full])).moments([Rows("x")])[Rows("x")].count == 8
    weights = {**full, "attention_mask": np.full((2, 4), 3, np.int64)}
    assert padding_mask(weights) is None
    assert Calibration(model, lambda: iter([weights])).moments([Rows("x")])[Rows("x")].count == 8


def test_the_error_of_outputs_is_that_of_their_real_positions(model: ir.Model) -> None:
    [error] = perturb(model, [{"c": np.full(1, 3, np.float32)}], feeds)
    assert error == pytest.approx(4 + 4, rel=1e-6)  # (3 - 1)^2 of either output
    broken = ir.from_onnx_text(
        TEXT.replace(
            "y = Mul(x, c)",
            "m = Cast<to=1>(attention_mask) a = Constant<value_ints=[2]>() "
            "k = Unsqueeze(m, a) p = Mul(x, c) y = Where(b, x, p)",
        ).replace("k = Unsqueeze(m, a)", "k = Unsqueeze(m, a) b = Cast<to=9>(k)")
    )
    broken.graph.inputs[3].const_value = ir.tensor(np.ones(1, np.float32), name="c")
    broken.graph.register_initializer(broken.graph.inputs[3])
    [error] = perturb(broken, [{"c": np.full(1, 3, np.float32)}], feeds)
    assert error == pytest.approx(4, rel=1e-6)  # y changes at padding alone


def test_only_tensors_with_positions_lose_them() -> None:
    real = np.array([[True, True, False], [True, False, False]])
    assert without_padding(np.zeros((2, 3, 5)), real).shape == (3, 5)
    assert without_padding(np.zeros((2, 3)), real).shape == (2, 3)  # features of a sample, as likely as positions
    assert without_padding(np.zeros((2, 4, 5)), real).shape == (2, 4, 5)
    assert without_padding(np.zeros((2, 3, 5)), None).shape == (2, 3, 5)
