# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters: attached they change nothing, folded they give what they computed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import Array, graph, run, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes.adapters import Adapter, attach, fold, pays

TEXT = """g (float[2, 6, 5, 5] x) => (float[2, 12] y, float[2, 12] z) {
    c = Conv<pads = [1, 1, 1, 1]>(x, k)
    p = GlobalAveragePool(c)
    f = Flatten(p)
    m = MatMul(f, w)
    y = Relu(m)
    t = Transpose(w)
    z = Gemm<transB = 1>(f, t)
}"""
FEEDS = {"x": weights(2, 6, 5, 5, seed=5)}


def model() -> ir.Model:
    return graph(TEXT, {"k": weights(10, 6, 3, 3), "w": weights(10, 12, seed=1)})


def text_of(one: ir.Model) -> bytes:
    return ir.to_proto(one).SerializeToString(deterministic=True)


def trained(one: ir.Model, adapters: tuple[Adapter, ...]) -> None:
    """Gives every factor that starts at zero other values."""
    for number, adapter in enumerate(adapters):
        for factor in (adapter.low_rank[0], *adapter.donated[:1]):
            assert factor.shape is not None
            array = weights(*factor.shape.numpy(), seed=number) / 100
            one.graph.initializers[str(factor.name)].const_value = ir.tensor(array, name=factor.name)


def outputs(one: ir.Model) -> list[Array]:
    return run(one, FEEDS)


@pytest.mark.parametrize("donor", [False, True])
def test_untrained_adapters_change_nothing_and_leave_no_trace(donor: bool) -> None:
    changed, before = model(), outputs(model())
    donors = {name: ir.tensor(weights(*value.shape)) if donor else None for name, value in _shaped(changed)}
    adapters = attach(changed, donors, 2, seed=0)
    for a, b in zip(outputs(changed), before, strict=True):
        np.testing.assert_array_equal(a, b)
    fold(changed, adapters)
    assert text_of(changed) == text_of(model())


@pytest.mark.parametrize("donor", [False, True])
def test_folding_gives_what_the_adapters_computed_for_every_reader(donor: bool) -> None:
    changed = model()
    donors = {name: ir.tensor(weights(*value.shape, seed=7)) if donor else None for name, value in _shaped(changed)}
    adapters = attach(changed, donors, 2, seed=0)
    assert all(len(adapter.trained) == (4 if donor else 2) for adapter in adapters)
    trained(changed, adapters)
    wanted = outputs(changed)
    fold(changed, adapters)
    for got, one, untouched in zip(outputs(changed), wanted, outputs(model()), strict=True):
        np.testing.assert_allclose(got, one, rtol=1e-4, atol=1e-4)
        assert np.abs(got - untouched).max() > 1e-2
    assert [node.op_type for node in changed.graph] == [node.op_type for node in model().graph]
    assert list(changed.graph.initializers) == ["k", "w"]


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_a_change_has_the_rank_and_the_shape_asked_for(rank: int, rows: int, columns: int, height: int) -> None:
    shape = (rows, columns, height, 1)
    one = graph("g (float[1] x) => (float[a, b, c, d] y) { y = Add(x, w) }", {"w": weights(*shape)})
    adapters = attach(one, {"w": None}, rank, seed=1)
    trained(one, adapters)
    change = adapters[0].change()
    assert change.shape == shape
    assert np.linalg.matrix_rank(change.reshape(rows, -1)) <= rank


def test_an_adapter_pays_where_it_has_fewer_numbers() -> None:
    assert pays((10, 10), 4)
    assert not pays((10, 10), 5)
    assert pays((16, 8, 3, 3), 13)
    assert not pays((16, 8, 3, 3), 14)
    assert not pays((100,), 1)


def _shaped(one: ir.Model) -> list[tuple[str, Array]]:
    return [(name, value.const_value.numpy()) for name, value in one.graph.initializers.items() if value.const_value]
