# SPDX-License-Identifier: Apache-2.0
"""What operator rules claim, put to the test on a single node by disturbing what they say may go.

A unit that may go is set to zero on every input it lies on; then its entries of one input at a time are disturbed. What
stays of the outputs must not notice: this is the NaN-footprint probe with numbers, so that a term of a sum, whose other
factor is zero, counts as gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from edgefold.passes.pruning.dependencies import analyse
from edgefold.passes.pruning.groups import Dependencies, Exactness, Trace

Array = np.ndarray
Kept = Mapping[tuple[str, int], Array]
SUMS = {
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "GlobalAveragePool", "GlobalLpPool"),
    *("RMSNormalization", "SimplifiedLayerNormalization"),
}
"""They sum without a second factor, so that a disturbed term is noticed; removal leaves a zero out, or corrects."""
MEANS = ("ReduceMean", "GlobalAveragePool", "RMSNormalization", "SimplifiedLayerNormalization")
"""Their divisor is the length of an axis, for which removal corrects."""
SIZED = {
    *("Col2Im", "ConstantOfShape", "Expand", "Gather", "Pad", "Reshape", "Shape", "Size", "Slice", "Split", "Tile"),
    *("group", "num_groups", "num_heads", "q_num_heads", "hidden_size"),
}
"""Operators and attributes that say sizes."""


class Node:
    """A model of one node with fixed inputs.

    Attributes:
        proto: whose inputs are the node's.
        inputs: by name.
        outputs: by name, as the undisturbed node gives them.
    """

    def __init__(self, proto: onnx.ModelProto, inputs: Mapping[str, Array]) -> None:
        proto.graph.node[0].name = "node"
        self.proto = proto
        self.inputs = dict(inputs)
        self._names = [value.name for value in proto.graph.output]
        self._run = _runner(proto)
        self.outputs = self.run(self.inputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(self._names, (np.asarray(one) for one in self._run(inputs)), strict=True))

    def dependencies(self, varying: bool = False) -> Dependencies:
        """The analysis with every input a parameter; integers among them fixed, or different in every run."""
        model = ir.from_proto(self.proto)
        for value in list(model.graph.inputs):
            value.const_value = ir.tensor(self.inputs[str(value.name)], name=value.name)
            model.graph.register_initializer(value)
        model.graph.inputs.clear()
        model.graph.outputs.clear()
        shapes = {name: array.shape for name, array in {**self.inputs, **self.outputs}.items()}
        integers = {name: array for name, array in self.inputs.items() if array.dtype.kind in "iub"}
        return analyse(model, Trace(shapes, integers, frozenset(integers) if varying else frozenset()))


def _runner(proto: onnx.ModelProto):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - an operator that it does not have
        evaluator = ReferenceEvaluator(proto)
        return lambda inputs: evaluator.run(None, dict(inputs))
    return lambda inputs: session.run(None, dict(inputs))


def noticed(node: Node, varying: bool = False) -> Iterator[str]:
    """Every disturbance of a unit that what stays of an output notices."""
    found = node.dependencies(varying)
    for group in found.groups:
        if group.exactness != Exactness.EXACT:
            continue
        for unit in sorted({0, 1, group.size - 1} & set(range(group.size))):
            kept = found.kept({group.name: np.array([unit])})
            yield from (f"{group.name} unit {unit}: {what}" for what in _disturb(node, kept))


def shrunk(node: Node) -> Iterator[str]:
    """Every unit whose entries cannot be cut from the inputs so that they are cut from the outputs as foretold.

    Operators whose attributes or inputs say sizes are none of its business: whoever cuts follows those up.
    """
    one = node.proto.graph.node[0]
    if one.op_type in SIZED or any(attribute.name in SIZED for attribute in one.attribute):
        return
    found = node.dependencies()
    for group in found.groups:
        kept = found.kept({group.name: np.array([0])})
        before = node.run({name: _zeroed(array, name, kept) for name, array in node.inputs.items()})
        after = node.run({name: _cut(array, name, kept) for name, array in node.inputs.items()})
        exact = group.exactness == Exactness.EXACT and one.op_type not in MEANS
        for name, result in after.items():
            wanted = _cut(before[name], name, kept)
            if wanted.shape != result.shape or (exact and not np.allclose(wanted, result, rtol=1e-4, atol=1e-5)):
                yield f"{group.name}: {name}"


def _cut(array: Array, name: str, kept: Kept) -> Array:
    for axis in range(array.ndim):
        if (name, axis) in kept:
            array = np.take(array, kept[name, axis], axis)
    return array


def _zeroed(array: Array, name: str, kept: Kept) -> Array:
    return np.where(_gone(array.shape, name, kept), 0, array).astype(array.dtype) if array.dtype.kind == "f" else array


def _gone(shape: Sequence[int], name: str, kept: Kept, axes: Sequence[int] | None = None) -> Array:
    """bool [shape]: the elements that go, on account of all axes or of some."""
    stays = np.ones(shape, bool)
    for axis in range(len(shape)) if axes is None else axes:
        if (name, axis) in kept:
            along = np.zeros(shape[axis], bool)
            along[kept[name, axis]] = True
            stays &= along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return ~stays


def _disturb(node: Node, kept: Kept) -> Iterator[str]:
    rng = np.random.default_rng(0)
    base = {name: _zeroed(array, name, kept) for name, array in node.inputs.items()}
    before = node.run(base)
    for name, axis in kept:
        if name not in base or base[name].dtype.kind != "f" or _is_a_term(node, name, kept):
            continue
        array = base[name]
        noise = rng.uniform(1, 2, array.shape)
        disturbed = np.where(_gone(array.shape, name, kept, [axis]), noise, array).astype(array.dtype)
        after = node.run({**base, name: disturbed})
        for output, result in after.items():
            stays = ~_gone(result.shape, output, kept)
            if not np.allclose(result[stays], before[output][stays], rtol=1e-4, atol=1e-5, equal_nan=True):
                yield f"{output} notices {name} axis {axis}"


def _is_a_term(node: Node, name: str, kept: Kept) -> bool:
    """Whether the disturbed entries would be terms of a sum by themselves."""
    one = node.proto.graph.node[0]
    if one.op_type not in SUMS and not (one.op_type == "Einsum" and len(one.input) == 1):
        return False
    return "Norm" in one.op_type or not any(output in node.outputs for output, _ in kept)
