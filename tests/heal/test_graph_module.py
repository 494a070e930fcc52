# SPDX-License-Identifier: Apache-2.0
"""A graph becomes a trainable module and goes back: what is trained, what stays, and that every byte comes back."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="healing needs torch: pip install 'edgefold[heal]'")

from torch_graphs import assert_same, graph, in_ort, in_torch, weights  # noqa: E402

from edgefold.errors import ModelError  # noqa: E402
from edgefold.files.serialization import serialize  # noqa: E402
from edgefold.heal.graph_module import GraphModule, supports  # noqa: E402

CONVOLUTION = """
net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
  c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, block__0__weight, block__0__bias)
  n = BatchNormalization(c, scale, shift, mean, variance)
  y = Relu(n)
}
"""


def convolution() -> ir.Model:
    return graph(
        CONVOLUTION,
        block__0__weight=weights(4, 3, 3, 3),
        block__0__bias=weights(4, seed=1),
        scale=weights(4, seed=2),
        shift=weights(4, seed=3),
        mean=weights(4, seed=4),
        variance=weights(4, seed=5) ** 2,
    )


def names_of(model: ir.Model) -> list[str]:
    return [name for name, _ in GraphModule(model).named_parameters()]


def step(module: GraphModule, x: np.ndarray) -> None:
    loss = sum(output.square().sum() for output in in_torch(module, {"x": x}).values())
    loss.backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= 1e-3 * parameter.grad


def test_parameters_have_the_names_of_the_initializers_and_statistics_stay() -> None:
    assert names_of(convolution()) == ["block.0.weight", "block.0.bias", "scale", "shift"]
    assert_same(convolution(), {"x": weights(2, 3, 8, 8)})


def test_untouched_parameters_come_back_byte_for_byte() -> None:
    model = convolution()
    before = serialize(model)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    GraphModule(model).write_back(model)
    assert serialize(model) == before
    assert all(a is b.const_value for a, b in zip(tensors, model.graph.initializers.values(), strict=True))


def test_trained_parameters_come_back_and_nothing_else_changes() -> None:
    model, original = convolution(), convolution()
    x = weights(2, 3, 8, 8)
    module = GraphModule(model)
    step(module, x)
    module.write_back(model)
    changed = {
        name
        for name, value in model.graph.initializers.items()
        if value.const_value.tobytes() != original.graph.initializers[name].const_value.tobytes()
    }
    assert changed == {"block.0.weight", "block.0.bias", "scale", "shift"}
    np.testing.assert_allclose(
        in_ort(model, {"x": x})[0], in_torch(module, {"x": x})["y"].detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_one_changed_element_leaves_the_other_tensors_alone() -> None:
    model = convolution()
    kept = model.graph.initializers["scale"].const_value
    module = GraphModule(model)
    with torch.no_grad():
        dict(module.named_parameters())["shift"][2] = 7.0
    module.write_back(model)
    assert model.graph.initializers["shift"].const_value.numpy()[2] == 7.0
    assert model.graph.initializers["scale"].const_value is kept


def test_a_weight_read_twice_is_one_parameter_with_the_sum_of_the_gradients() -> None:
    tied = graph("net (float[2, 3] x) => (float[2, 3] y) { h = MatMul(x, w) y = MatMul(h, w) }", w=weights(3, 3))
    apart = graph(
        "net (float[2, 3] x) => (float[2, 3] y) { h = MatMul(x, a) y = MatMul(h, b) }", a=weights(3, 3), b=weights(3, 3)
    )
    slopes = {}
    for model in (tied, apart):
        module = GraphModule(model)
        in_torch(module, {"x": weights(2, 3, seed=9)})["y"].sum().backward()
        slopes |= {name: parameter.grad for name, parameter in module.named_parameters()}
    torch.testing.assert_close(slopes["w"], slopes["a"] + slopes["b"])


def test_weights_of_constant_nodes_are_trained_and_written_back() -> None:
    model = graph("""net (float[N, 2] x) => (float[N, 2] y) {
        w = Constant<value = float[2, 2] {1.0, 2.0, 3.0, 4.0}>()
        b = Constant<value_floats = [0.5, 0.25]>()
        h = MatMul(x, w)
        y = Add(h, b)
    }""")
    before = serialize(model)
    module = GraphModule(model)
    assert [name for name, _ in module.named_parameters()] == ["w", "b"]
    module.write_back(model)
    assert serialize(model) == before
    step(module, weights(3, 2))
    module.write_back(model)
    expected = in_torch(module, {"x": weights(3, 2)})["y"].detach().numpy()
    np.testing.assert_allclose(in_ort(model, {"x": weights(3, 2)})[0], expected, rtol=1e-5)


def test_half_precision_weights_are_float32_parameters_and_come_back_as_they_were() -> None:
    model = graph("net (float16[N, 3] x) => (float16[N, 3] y) { y = MatMul(x, w) }", w=weights(3, 3).astype(np.float16))
    before = serialize(model)
    module = GraphModule(model)
    (parameter,) = module.parameters()
    assert parameter.dtype == torch.float32
    module.write_back(model)
    assert serialize(model) == before
    assert_same(model, {"x": weights(2, 3).astype(np.float16)}, rtol=5e-3, atol=5e-3)
    with torch.no_grad():
        parameter += 1
    module.write_back(model)
    assert model.graph.initializers["w"].const_value.dtype == ir.DataType.FLOAT16


def test_scalars_masks_bounds_and_shapes_are_constants_and_near_misses_are_weights() -> None:
    model = graph(
        """net (float[2, 3] x) => (float[2, 3] y) {
            a = Mul(x, root)
            l = Add(a, lowest)
            m = Add(l, masked)
            n = Add(m, shifts)
            b = Add(n, far)
            c = Mul(b, mask)
            d = Pow(c, exponent)
            e = Mul(d, ones)
            f = Add(e, fraction)
            y = PRelu(f, slope)
        }""",
        root=np.float32([0.125]),
        lowest=np.float32([0, np.finfo(np.float32).min, 0]),
        masked=np.float32([0, -1e9, 0]),
        shifts=np.float32([0, -9, 0]),
        far=np.float32([2, -1e4, 0]),
        mask=np.float32([1, 0, 1]),
        exponent=np.float32([1, 2, 3]),
        ones=np.float32([1, 1, 1]),
        fraction=np.float32([1, 0, 0.5]),
        slope=np.float32([0.25]),
    )
    assert names_of(model) == ["shifts", "far", "ones", "fraction", "slope"]


def test_default_inputs_are_weights_and_need_no_feed() -> None:
    model = graph("net (float[2, 3] x, float[3, 3] w) => (float[2, 3] y) { y = MatMul(x, w) }", ir_version=10)
    model.graph.inputs[1].const_value = ir.tensor(weights(3, 3), name="w")
    model.graph.initializers["w"] = model.graph.inputs[1]
    assert names_of(model) == ["w"]
    assert in_torch(GraphModule(model), {"x": weights(2, 3)})["y"].requires_grad


def test_dynamic_shapes_are_computed_at_each_call() -> None:
    text = """net (float[N, T, 6] x) => (float[N, T, 2, 3] y, int64[3] shape) {
        shape = Shape(x)
        outer = Slice(shape, zero, two)
        target = Concat<axis = 0>(outer, inner)
        z = MatMul(x, w)
        y = Reshape(z, target)
    }"""
    fixed = {"zero": np.int64([0]), "two": np.int64([2]), "inner": np.int64([2, 3])}
    model = graph(text, w=weights(6, 6), **fixed)
    module = GraphModule(model)
    for shape in ((1, 2, 6), (3, 5, 6)):
        outputs = in_torch(module, {"x": weights(*shape)})
        assert tuple(outputs["y"].shape) == (*shape[:2], 2, 3)
        assert outputs["shape"].tolist() == list(shape)


def test_shapes_are_computed_on_the_cpu_whatever_the_device() -> None:
    # The meta device holds no values: reading one, as a shape that came from the device would have to be, fails.
    text = """net (float[N, T, 6] x, float[1, 1, 6] bias) => (float[N, M] y, float[1, P, 6] z) {
        shape = Shape(x)
        rows = Gather(shape, zero)
        flat = Concat<axis = 0>(rows, rest)
        y = Reshape(x, flat)
        steps = Gather(shape, one)
        scalar = Squeeze(steps)
        start = Squeeze(zero)
        by = Squeeze(one)
        positions = Range(start, scalar, by)
        table = Gather(w, positions)
        z = Add(table, bias)
    }"""
    fixed = {"zero": np.int64([0]), "one": np.int64([1]), "rest": np.int64([-1])}
    module = GraphModule(graph(text, w=weights(9, 6), **fixed)).to("meta")
    feeds = {"x": torch.empty(3, 5, 6, device="meta"), "bias": torch.empty(1, 1, 6, device="meta")}
    outputs = module(feeds)
    assert {name: (tuple(value.shape), value.device.type) for name, value in outputs.items()} == {
        "y": ((3, 30), "meta"),
        "z": ((1, 5, 6), "meta"),
    }


def test_taps_give_inner_values_and_outputs_stay_first() -> None:
    module = GraphModule(convolution())
    outputs = in_torch(module, {"x": weights(1, 3, 8, 8)}, "c", "scale")
    assert list(outputs) == ["y", "c", "scale"]
    torch.testing.assert_close(outputs["y"], torch.relu(outputs["y"]))
    assert outputs["c"].min() < 0


@pytest.mark.parametrize(
    ("feeds", "taps", "message"),
    [
        ({}, (), "the input 'x' is not fed; the model's inputs are x"),
        ({"x": weights(1, 3, 8, 8)}, ("nowhere",), "no value 'nowhere'"),
    ],
)
def test_missing_feeds_and_unknown_taps_are_errors(feeds: dict, taps: tuple, message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        in_torch(GraphModule(convolution()), feeds, *taps)


def test_what_cannot_be_trained_is_reported_with_the_name_of_its_node() -> None:
    model = graph(
        """net (float[4, 4] x) => (float[4, 4] y) {
        [drop] d, mask = Dropout(x, ratio, training)
        [pick] u = Bernoulli(d)
        [fine] y = Relu(u)
    }""",
        ratio=np.float32(0.5),
        training=np.bool_(True),
    )
    assert supports(convolution()) == []
    assert supports(model) == [
        "node 'drop' (Dropout) drops at random (training_mode); export the model for inference",
        "node 'pick' (Bernoulli) has no trainable form here",
    ]
    with pytest.raises(ModelError, match=re.escape("node 'drop' (Dropout)") + ".*and 1 more"):
        GraphModule(model)


def test_writing_back_into_another_model_is_an_error() -> None:
    with pytest.raises(ModelError, match=re.escape("no stored tensor 'block.0.weight' of the shape [4, 3, 3, 3]")):
        GraphModule(convolution()).write_back(graph("net (float[1] x) => (float[1] y) { y = Relu(x) }"))


def test_the_state_of_a_module_is_saved_and_loaded_by_names_with_dots() -> None:
    source, target = GraphModule(convolution()), GraphModule(convolution())
    with torch.no_grad():
        for parameter in source.parameters():
            parameter += 1
    target.load_state_dict(source.state_dict())
    for ours, theirs in zip(target.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(RuntimeError, match=r"Missing key.*shift"):
        target.load_state_dict({name: value for name, value in source.state_dict().items() if name != "shift"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*a\.b"):
        target.load_state_dict({**source.state_dict(), "a.b": torch.zeros(1)})


def test_gradients_pass_a_loop_and_the_branch_that_ran() -> None:
    model = graph(
        """net (float[2, 3] x, bool flag) => (float[2, 3] y, float[K, 2, 3] each) {
            s, each = Loop(three, yes, x) <
                body = one (int64 i, bool go, float[2, 3] h) => (bool go_on, float[2, 3] k, float[2, 3] k2) {
                go_on = Identity(go)
                z = MatMul(h, w)
                k = Tanh(z)
                k2 = Mul(k, k)
            }>
            y = If(flag) <
                then_branch = yes_ () => (float[2, 3] a) { a = Mul(s, gain) },
                else_branch = no_ () => (float[2, 3] b) { b = Identity(s) }
            >
        }""",
        w=weights(3, 3),
        gain=np.float32([2, 3, 4]),
        three=np.int64(3),
        yes=np.bool_(True),
    )
    feeds = {"x": weights(2, 3, seed=5)}
    for flag in (True, False):
        assert_same(model, {**feeds, "flag": np.array(flag)})
    module = GraphModule(model)
    assert [name for name, _ in module.named_parameters()] == ["w", "gain"]
    in_torch(module, {**feeds, "flag": np.array(False)})["y"].sum().backward()
    slopes = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert slopes["w"].abs().min() > 0
    assert slopes["gain"] is None
