# SPDX-License-Identifier: Apache-2.0
"""Evaluates the small integer subgraphs by which exporters compute shapes, so that inference can see the results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

Array = np.ndarray[Any, Any]

_SMALL_ELEMENTS = 1024
# Every round carries shapes past one more Reshape in a chain; deeper models than this stay partly unknown.
_MAX_ROUNDS = 100
_ARITHMETIC = frozenset((
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "ConstantOfShape", "CumSum", "Div", "Equal", "Expand", "Floor",
    "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not",
    "Or", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Slice", "Split", "Sqrt", "Squeeze",
    "Sub", "Tile", "Transpose", "Unsqueeze", "Where",
))  # fmt: skip


def infer_with_arithmetic(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Alternates onnx's shape inference with the evaluation of what became constant, until nothing more does.

    Raises:
        onnx.shape_inference.InferenceError: the graph contradicts its shapes.
    """
    evaluator = _Evaluator(proto)
    inferred = shape_inference.infer_shapes(proto, data_prop=True)
    for _ in range(_MAX_ROUNDS):
        if not evaluator.advance(inferred.graph):
            break
        evaluator.plant(proto.graph)
        inferred = shape_inference.infer_shapes(proto, data_prop=True)
    return inferred


class _Evaluator:
    """The values known so far."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._imports = list(proto.opset_import)
        self._values: dict[str, Array] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer if _is_small(tensor)
        }
        self._planted = set(self._values)

    def advance(self, graph: onnx.GraphProto) -> bool:
        """Evaluates all nodes whose inputs are known; whether there were any new ones."""
        before = len(self._values)
        shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}
        shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        for node in graph.node:
            if node.domain not in ("", "ai.onnx") or node.output[0] in self._values:
                continue
            if node.op_type == "Shape":
                shape = shapes.get(node.input[0])
                if shape is not None:
                    self._values[node.output[0]] = _slice(node, np.array(shape, np.int64))
            elif node.op_type == "Constant":
                constant = _constant(node)
                if constant is not None:
                    self._values[node.output[0]] = constant
            elif node.op_type in _ARITHMETIC and all(not name or name in self._values for name in node.input):
                self._evaluate(node)
        return len(self._values) > before

    def _evaluate(self, node: onnx.NodeProto) -> None:
        names = [name for name in dict.fromkeys(node.input) if name]
        graph = helper.make_graph(
            [node],
            "shape arithmetic",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(self._values[n].dtype), None)
                for n in names
            ],
            [onnx.ValueInfoProto(name=name) for name in node.output],
        )
        model = helper.make_model(graph, opset_imports=self._imports)
        try:
            results: Any = ReferenceEvaluator(model).run(None, {name: self._values[name] for name in names})
        except (ValueError, TypeError, IndexError, RuntimeError, KeyError, AttributeError):
            # An operator version that onnx's reference lacks: its result, and what hangs on it, stays unknown.
            return
        for name, result in zip(node.output, results, strict=True):
            if isinstance(result, np.ndarray | np.generic) and result.size <= _SMALL_ELEMENTS:
                self._values[name] = np.asarray(result)

    def plant(self, graph: onnx.GraphProto) -> None:
        """Puts the new values into the graph as initializers, in place of the nodes that compute them."""
        new = [name for name in self._values if name not in self._planted]
        kept = [node for node in graph.node if not any(name in self._values for name in node.output)]
        del graph.node[:]
        graph.node.extend(kept)
        graph.initializer.extend(numpy_helper.from_array(self._values[name], name) for name in new)
        self._planted.update(new)


def _is_small(tensor: onnx.TensorProto) -> bool:
    return math.prod(tensor.dims) <= _SMALL_ELEMENTS and tensor.data_location != onnx.TensorProto.EXTERNAL


def _constant(node: onnx.NodeProto) -> Array | None:
    """The value of a Constant node, in whichever attribute it stands; None where it is large or no number."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return numpy_helper.to_array(attribute.t) if _is_small(attribute.t) else None
        if attribute.name in ("value_int", "value_ints"):
            return np.array(helper.get_attribute_value(attribute), np.int64)
        if attribute.name in ("value_float", "value_floats"):
            return np.array(helper.get_attribute_value(attribute), np.float32)
    return None


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(one.HasField("dim_value") for one in tensor.shape.dim):
        return None
    return tuple(one.dim_value for one in tensor.shape.dim)


def _slice(node: onnx.NodeProto, shape: Array) -> Array:
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return shape[ends.get("start", 0) : ends.get("end", len(shape))]
