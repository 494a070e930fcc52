# SPDX-License-Identifier: Apache-2.0
"""Calibration statistics against numpy and against ONNX Runtime's own convolution."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgefold import calibration as module
from edgefold import calibration_batches
from edgefold.calibration import Calibration
from edgefold.errors import ModelError
from edgefold.passes._layer_inputs import Patches, Rows, Targets
from edgefold.passes._ranges import Range
from edgefold.session import make_session

TWO_LAYERS = """<ir_version: 10, opset_import: ["" : 21]>
two_layers (float[B, 6] x) => (float[B, 3] y)
<float[6, 5] first = {FIRST}, float[5, 3] second = {SECOND}>
{ hidden = MatMul(x, first)  active = Relu(hidden)  y = MatMul(active, second) }"""


def two_layers(seed: int = 0) -> ir.Model:
    rng = np.random.default_rng(seed)
    text = TWO_LAYERS
    for name, size in (("FIRST", 30), ("SECOND", 15)):
        text = text.replace(name, ", ".join(f"{value:.4f}" for value in rng.standard_normal(size)))
    return ir.from_proto(onnx.parser.parse_model(text))


class Feeds:
    """Batches of random inputs; counts how often it is read."""

    def __init__(self, sizes: tuple[int, ...] = (4, 4, 3), shape: tuple[int, ...] = (6,)) -> None:
        self.batches = [np.random.default_rng(i).standard_normal((n, *shape)) for i, n in enumerate(sizes)]
        self.reads = 0

    def __call__(self) -> Iterator[dict[str, np.ndarray]]:
        self.reads += 1
        for batch in self.batches:
            yield {"x": batch.astype(np.float32), "unused": np.zeros(1)}

    def all(self) -> np.ndarray:
        return np.concatenate(self.batches).astype(np.float32)


def values(model: ir.Model, tensor: str, x: np.ndarray) -> np.ndarray:
    proto = ir.to_proto(model)
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    return make_session(proto.SerializeToString()).run([tensor], {"x": x})[0]


def test_moments_are_those_of_all_rows() -> None:
    feeds, model = Feeds(), two_layers()
    found = Calibration(model, feeds).moments([Rows("x"), Rows("active"), Rows("x")])
    assert list(found) == [Rows("x"), Rows("active")]
    for request, moments in found.items():
        rows = (feeds.all() if request.tensor == "x" else values(model, "active", feeds.all())).astype(np.float64)
        np.testing.assert_allclose(moments.xtx[0], rows.T @ rows, rtol=1e-5, atol=1e-5)
        assert moments.count == 11


def test_the_model_is_left_as_it_was() -> None:
    model = two_layers()
    before = ir.to_proto(model).SerializeToString()
    Calibration(model, Feeds()).ranges(["hidden"])
    assert ir.to_proto(model).SerializeToString() == before


def test_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [Rows("x"), Rows("hidden"), Rows("active"), Rows("y")]
    together = Calibration(two_layers(), Feeds()).moments(requests)
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    monkeypatch.setattr(calibration_batches, "MAX_KEPT", 0)
    feeds = Feeds()
    apart = Calibration(two_layers(), feeds).moments(requests)
    assert feeds.reads > len(requests)
    for request in requests:
        np.testing.assert_array_equal(together[request].xtx, apart[request].xtx)


def test_small_batches_are_made_once() -> None:
    feeds = Feeds()
    calibrated = Calibration(two_layers(), feeds)
    calibrated.moments([Rows("x")])
    reads = feeds.reads
    calibrated.moments([Rows("active")])
    calibrated.ranges(["y"])
    assert feeds.reads == reads <= 2


def test_rows_are_sampled_by_seed() -> None:
    feeds = Feeds(sizes=(100, 100))
    first, again = (Calibration(two_layers(), feeds, max_rows=20).moments([Rows("x")])[Rows("x")] for _ in range(2))
    other = Calibration(two_layers(), feeds, max_rows=20, seed=1).moments([Rows("x")])[Rows("x")]
    assert first.count == 20
    np.testing.assert_array_equal(first.xtx, again.xtx)
    assert (first.xtx != other.xtx).any()


def test_rows_along_another_axis() -> None:
    feeds = Feeds(sizes=(7,))
    moments = Calibration(two_layers(), feeds).moments([Rows("x", axis=0)])[Rows("x", axis=0)]
    x = feeds.all().astype(np.float64)
    np.testing.assert_allclose(moments.xtx[0], x @ x.T, rtol=1e-9)


def test_regressions_pair_changed_inputs_with_original_targets() -> None:
    feeds, original, changed = Feeds(sizes=(40, 40)), two_layers(), two_layers(seed=1)
    request = Rows("active")
    wanted, before = {request: [Targets("y")]}, Calibration(original, feeds)
    moments = Calibration(changed, feeds, max_rows=50).regressions(wanted, before)[request].whole
    whole = Calibration(changed, feeds).regressions(wanted, before)[request].whole
    x, y = values(changed, "active", feeds.all()), values(original, "y", feeds.all())
    np.testing.assert_allclose(whole.xty[0], x.T.astype(float) @ y, rtol=1e-4, atol=1e-4)
    assert moments.count == 50
    bad = {Rows("x", axis=0): [Targets("y")]}
    with pytest.raises(ModelError, match="tensor 'x': its layer has"):
        Calibration(changed, feeds).regressions(bad, Calibration(original, feeds))


CASES = [
    ((8, 9), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ((8, 9), (3, 2), (2, 1), (0, 1, 2, 0), (1, 2), 2),
    ((7, 7), (3, 3), (2, 2), (0, 0, 1, 1), (1, 1), 4),
    ((12,), (5,), (2,), (2, 1), (2,), 2),
    ((5, 6, 4), (2, 3, 1), (1, 2, 1), (1, 0, 0, 0, 1, 0), (1, 1, 1), 1),
]


@pytest.mark.parametrize(("size", "kernel", "strides", "pads", "dilations", "group"), CASES)
def test_patches_times_weights_are_the_convolution(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    group: int,
) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 4 // group, *kernel)).astype(np.float32)
    node = onnx.helper.make_node(
        "Conv", ["x", "w"], ["y"], strides=strides, pads=pads, dilations=dilations, group=group
    )
    graph = onnx.helper.make_graph(
        [node],
        "conv",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", 4, *size])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    feeds = Feeds(sizes=(2, 1), shape=(4, *size))
    y = make_session(model.SerializeToString()).run(["y"], {"x": feeds.all()})[0]

    patches = Patches("x", kernel, strides, pads, dilations, group)
    assert patches.output_size(feeds.all().shape) == y.shape[2:]
    rows = patches.gather(feeds.all(), np.arange(patches.count(feeds.all().shape)))  # [P, rows, K]
    matrix = np.moveaxis(weight, 1, -1).reshape(group, 8 // group, -1).swapaxes(1, 2)  # [P, K, M / P]
    expected = np.moveaxis(y, 1, -1).reshape(-1, group, 8 // group).swapaxes(0, 1)
    np.testing.assert_allclose(rows @ matrix, expected, rtol=1e-4, atol=1e-4)

    calibration, wanted = Calibration(model.SerializeToString(), feeds), {patches: [Targets("y", axis=1, group=group)]}
    found = calibration.regressions(wanted, calibration)[patches].whole
    assert float(found.error(matrix.astype(np.float64)).max()) < 1e-3 * float(found.target_squares.max())


def test_ranges_see_every_element() -> None:
    feeds = Feeds(sizes=(50, 20))
    found = Calibration(two_layers(), feeds).ranges(["x", "active"])
    assert found["x"].low == pytest.approx(float(feeds.all().min()))
    assert found["x"].high == pytest.approx(float(feeds.all().max()))
    assert found["x"].counts.sum() == 70 * 6
    assert found["active"].low == 0


def test_range_doubles_and_keeps_all_counts() -> None:
    streamed, whole = Range(), Range()
    values_seen = np.random.default_rng(0).standard_normal(4000)
    for factor in (0.0, 0.01, 1.0, 0.1, 30.0):
        streamed.add(values_seen * factor)
    assert streamed.counts.sum() == 5 * 4000
    assert streamed.top >= max(-streamed.low, streamed.high)
    whole.add(values_seen)
    assert whole.percentile(0.5) == pytest.approx(np.median(np.abs(values_seen)), abs=0.01)


@pytest.mark.parametrize(("low", "high"), [(-127, 127), (-7, 7), (0, 255), (0, 15)])
def test_scale_is_close_to_the_best(low: int, high: int) -> None:
    x = np.random.default_rng(0).standard_normal(20000) ** 3
    x = np.maximum(x, 0) if low == 0 else x
    seen = Range()
    seen.add(x)

    def error(scale: float) -> float:
        return float(np.square(np.clip(np.rint(x / scale), low, high) * scale - x).sum())

    best = min(error(np.abs(x).max() / high * share) for share in np.linspace(0.01, 1, 200))
    assert error(seen.scale(low, high)) <= 1.02 * best


def test_scale_of_degenerate_ranges() -> None:
    zeros = Range()
    zeros.add(np.zeros(5))
    assert zeros.scale(-127, 127) == 1.0
    tiny = Range()
    tiny.add(np.array([1e-38, 0], np.float32))
    assert tiny.scale(-127, 127) == 1.0
    half = Range()
    half.add(np.array([1e-3, 2e-3, -4e-3], np.float16))
    assert half.scale(-127, 127) == pytest.approx(4e-3 / 127, rel=0.1)
    negative = Range()
    negative.add(np.array([-1.0, 2.0]))
    with pytest.raises(ValueError, match="unsigned"):
        negative.scale(0, 255)
    with pytest.raises(ValueError, match="NaN or infinite"):
        negative.add(np.array([np.nan]))


def test_tensors_that_cannot_be_observed_are_named() -> None:
    with pytest.raises(ModelError, match="has no tensor 'nothing'"):
        Calibration(two_layers(), Feeds()).ranges(["nothing"])


def test_infinite_activations_name_their_tensor() -> None:
    def feeds() -> Iterator[dict[str, np.ndarray]]:
        yield {"x": np.full((2, 6), np.inf, np.float32)}

    with pytest.raises(ModelError, match="tensor 'x': calibration gave NaN or infinite"):
        Calibration(two_layers(), feeds).moments([Rows("x")])


def test_no_batches_give_no_moments() -> None:
    assert Calibration(two_layers(), Feeds(sizes=())).moments([Rows("x")]) == {}
