# SPDX-License-Identifier: Apache-2.0
"""How much the outputs of a model move when one of its tensors does: runs with noise on one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.session import make_session, run

Array = np.ndarray[Any, Any]

NOISE = 0.1
"""Standard deviation of the factor that every element of a tensor is multiplied with; its mean is 1."""

_TINY = 1e-30


def gains(
    model: ir.Model, tensors: Sequence[str], *, feeds: Mapping[str, Array], seed: int = 0, threads: int = 0
) -> dict[str, float]:
    """Relative squared change of the outputs for each relative squared change of a tensor.

    Args:
        model: not changed.
        tensors: names of float values of the main graph.
        feeds: a small batch.
        seed: of the noise.
        threads: of ONNX Runtime; 0 leaves the choice to it.

    Returns:
        Name -> the sum over the float outputs of |change|^2 / |output|^2, divided by the noise's variance. 1 says that
        an error of the tensor arrives at the outputs as large as it is.
    """
    noisy_model, types = _with_factors(model, tensors)
    session = make_session(noisy_model, threads=threads)
    names = [one.name for one in session.get_outputs()]
    quiet = {_factor(name): np.ones(1, dtype=types[name]) for name in tensors}
    used = {one.name for one in session.get_inputs()}
    given = {name: value for name, value in feeds.items() if name in used}
    *outputs, shapes = _split(run(session, names, {**given, **quiet}), len(tensors))
    found = {}
    for number, name in enumerate(tensors):
        draw = np.random.default_rng([seed, number]).standard_normal(tuple(shapes[number]), dtype=np.float32)
        noisy = {_factor(name): (1 + np.float32(NOISE) * draw).astype(types[name])}
        *moved, _ = _split(run(session, names, {**given, **quiet, **noisy}), len(tensors))
        found[name] = sum(_relative(a, b) for a, b in zip(moved, outputs, strict=True)) / NOISE**2
    return found


def _relative(moved: Array, output: Array) -> float:
    if not np.issubdtype(output.dtype, np.floating):
        return 0.0
    usable = np.isfinite(moved) & np.isfinite(output)  # a mask may be infinite
    before, after = output[usable].astype(np.float64), moved[usable].astype(np.float64)
    return float(np.square(after - before).sum() / (np.square(before).sum() + _TINY))


def _split(values: Sequence[Array], shapes: int) -> list[Any]:
    """The outputs, then the list of the tensors' shapes."""
    return [*values[: len(values) - shapes], values[len(values) - shapes :]]


def _factor(tensor: str) -> str:
    return f"{tensor}:edgefold-factor"


def _with_factors(model: ir.Model, tensors: Sequence[str]) -> tuple[ir.Model, dict[str, np.dtype[Any]]]:
    """A copy whose readers of each tensor read it times a factor, an input; the tensors' shapes are outputs.

    Returns:
        The copy, and the type of each tensor.
    """
    copy = model.clone()
    graph = copy.graph
    values = {value.name: value for node in graph for value in node.outputs}
    shapes = []
    types = {}
    for name in tensors:
        value = values[name]
        node = value.producer()
        assert node is not None, "a value of a node"
        dtype = value.dtype or _weight_type(node)
        types[name] = dtype.numpy()
        factor = ir.Value(name=_factor(name), type=ir.TensorType(dtype))
        graph.inputs.append(factor)
        moved = ir.node("Mul", [value, factor], name=f"{name}:edgefold-noise")
        shape = ir.node("Shape", [value], name=f"{name}:edgefold-shape")
        moved.outputs[0].name, shape.outputs[0].name = moved.name, shape.name
        value.replace_all_uses_with(moved.outputs[0], replace_graph_outputs=True)
        moved.replace_input_with(0, value)
        shape.replace_input_with(0, value)
        graph.insert_after(node, [moved, shape])
        shapes.append(shape.outputs[0])
    graph.outputs.extend(shapes)
    return copy, types


def _weight_type(node: ir.Node) -> ir.DataType:
    """The type of a node's stored operand, which its output shares where nothing declares that one's."""
    stored = (value.const_value for value in node.inputs if value is not None)
    return next((ir.DataType(one.dtype) for one in stored if one is not None), ir.DataType.FLOAT)
