# SPDX-License-Identifier: Apache-2.0
"""Sizes that a graph reads off its tensors while it runs, though most of them are known before.

Exporters write ``x.view(batch, 12, 64)`` of a model with a dynamic batch as a Shape, a Gather and an Unsqueeze for each
number, and a Concat. One number that is not known, the batch, keeps all of them, and hides the sizes behind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from edgefold.passes._constants import small_constant

_SHAPE_HAS_ENDS = 15  # the opset


def shorten_size_reads(model: ir.Model) -> None:
    """Writes what takes one number, or a run of them, out of a Shape as a Shape of these axes, in place; exact."""
    if (model.opset_imports.get("") or 0) < _SHAPE_HAS_ENDS:
        return
    for graph in model.graphs():
        for node in list(graph):
            read = _read(node)
            if read is not None:
                _shorten(node, read)


def target_of(shape: ir.Shape, wanted: ir.Shape) -> Sequence[int] | None:
    """The constant that does to a tensor what a Reshape to sizes does of which some are known; None without one.

    Args:
        shape: of the tensor.
        wanted: the sizes, symbols among them, and 0 and -1 as Reshape knows them.
    """
    target: list[int] = []
    free = 0  # sizes that only the number of all elements can tell
    for axis, size in enumerate(wanted):
        if isinstance(size, int):
            target.append(size)
        elif axis < len(shape) and size.value is not None and shape[axis] == size:
            target.append(0)
        else:
            target.append(-1)
            free += 1
    # Beside a size that may be 0 no other can be told from the number of elements.
    told = free == 0 or (target.count(-1) == 1 and 0 not in target)
    return target if told else None


@dataclasses.dataclass(frozen=True)
class _Read:
    """A node that takes numbers out of a whole Shape.

    Attributes:
        tensor: whose sizes these are.
        first, end: its axes, counted from the end where negative; `end` is None for the last one and all before it.
        scalar: whether the node gives a number and no vector of one.
    """

    tensor: ir.Value
    first: int
    end: int | None
    scalar: bool = False


def _read(node: ir.Node) -> _Read | None:
    """What a node reads, or None where it reads no sizes, or others than a run of them."""
    sizes = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if node.domain not in ("", "ai.onnx") or sizes is None or sizes.op_type != "Shape" or sizes.attributes:
        return None
    tensor, constants = sizes.inputs[0], [small_constant(value) for value in node.inputs[1:]]
    if tensor is None or any(one is None or one.size != 1 for one in constants):
        return None
    numbers = [int(one.reshape(())) for one in constants if one is not None]
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0:
        axis = numbers[0]
        return _Read(
            tensor, axis, None if axis == -1 else axis + 1, constants[0] is not None and constants[0].ndim == 0
        )
    if node.op_type == "Slice" and len(numbers) > 1 and set(numbers[2:3]) <= {0} and set(numbers[3:]) <= {1}:
        return _Read(tensor, numbers[0], numbers[1])
    return None


def _shorten(node: ir.Node, read: _Read) -> None:
    """Puts a Shape of some axes in the place of a node, and of an Unsqueeze behind a number."""
    assert node.graph is not None
    output = node.outputs[0]
    ends = {"start": read.first} | ({} if read.end is None else {"end": read.end})
    made = ir.node("Shape", [read.tensor], ends, name=f"{output.name}/sizes")
    made.outputs[0].name, made.outputs[0].type = f"{output.name}.sizes", ir.TensorType(ir.DataType.INT64)
    node.graph.insert_before(node, made)
    if not read.scalar:
        ir.convenience.replace_all_uses_with([output], [made.outputs[0]], replace_graph_outputs=True)
        return
    for use in list(output.uses()):
        if use.node.op_type == "Unsqueeze" and use.idx == 0:
            vector = use.node.outputs[0]
            ir.convenience.replace_all_uses_with([vector], [made.outputs[0]], replace_graph_outputs=True)
    number = ir.node("Squeeze", [made.outputs[0]], name=f"{output.name}/number")
    number.outputs[0].name, number.outputs[0].type = f"{output.name}.number", output.type
    node.graph.insert_before(node, number)
    ir.convenience.replace_all_uses_with([output], [number.outputs[0]], replace_graph_outputs=True)
