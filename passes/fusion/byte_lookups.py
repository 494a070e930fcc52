# SPDX-License-Identifier: Apache-2.0
"""The kind ``lookup``: images of bytes become codes by a table, and are never floats.

A model that takes the bytes of a camera or of a decoded file scales them itself; its first convolution then quantizes
the floats. All that is a function of one byte, so that 256 numbers hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._constants import small_constant
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Edit, Notes
from edgefold.passes.fusion.block_chains import is_block
from edgefold.passes.fusion.code_lookups import Codes, code_lookup, codes_of
from edgefold.passes.fusion.conv_chains import CodeFormat
from edgefold.passes.fusion.cost import Device
from edgefold.passes.fusion.image_order import TO_FIRST, turns

_X_SCALE = 6
Numbers = npt.NDArray[np.float32]


def look_bytes_up(model: ir.Model, context: Context, _device: Device) -> Notes:
    """Puts a CodeLookup in front of the FusedConvBlocks that read floats made of bytes, in place.

    Numerics: bit-equal; the table is computed with the roundings of the nodes.
    """
    graph = model.graph
    store = InitializerStore(graph)
    edits: list[Edit] = []
    made: dict[tuple[ir.Value, bytes], ir.Value] = {}
    for node in [one for one in graph if _reads_floats(one) and not context.excludes(node_label(one))]:
        found = _bytes_behind(node)
        if found is None:
            continue
        source, numbers = found
        table = _codes(node, numbers)
        key = (source, table.tobytes())
        if key not in made:
            lookup = code_lookup(source, table, f"{source.name}.codes_{len(made)}", store)
            lookup.metadata_props["edgefold.from"] = node_label(node)
            graph.insert_before(node, lookup)
            made[key] = lookup.outputs[0]
        node.replace_input_with(0, made[key])
        node.attributes["x_codes"] = ir.AttrInt64("x_codes", 1)
        node.attributes["x_perm"] = ir.AttrInt64s("x_perm", TO_FIRST)
        edits.append(Edit(node_label(node), "reads bytes by a table"))
    return Notes(tuple(edits), (), {"lookup.tables": len(made)})


def _reads_floats(node: ir.Node) -> bool:
    return is_block(node) and not node.attributes.get_int("x_codes", 0)


def _bytes_behind(block: ir.Node) -> tuple[ir.Value, Numbers] | None:
    """The channel-last bytes that a block's floats are made of, and the float of every byte; None without them."""
    last = tuple(block.attributes.get_ints("x_perm", ())) == TO_FIRST
    value = block.inputs[0]
    chain: list[ir.Node] = []
    while value is not None and value.dtype != ir.DataType.UINT8:
        node = value.producer()
        if node is None or not _is_of_one_byte(node):
            return None
        if node.op_type == "Transpose":
            if last or not turns(node, TO_FIRST):
                return None
            last = True
        chain.append(node)
        value = node.inputs[0]
    if value is None or not last or not chain:
        return None
    numbers = _floats_of_bytes(chain[::-1])
    return None if numbers is None else (value, numbers)


def _floats_of_bytes(chain: Sequence[ir.Node]) -> Numbers | None:
    """What the nodes make of every byte; None where that are no finite floats."""
    numbers: npt.NDArray[np.generic] = np.arange(256, dtype=np.uint8)
    for node in chain:
        if node.op_type == "Transpose":
            continue
        if numbers.dtype != np.float32 and node.op_type not in ("Cast", "DequantizeLinear"):
            return None
        with np.errstate(all="ignore"):
            numbers = _FUNCTIONS[node.op_type](numbers, *_operands(node))
    floats = np.asarray(numbers, np.float32)
    return floats if numbers.dtype == np.float32 and np.isfinite(floats).all() else None


def _is_of_one_byte(node: ir.Node) -> bool:
    """Whether a node gives every element from the one at its place and constants."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Transpose":
        return True
    if node.op_type == "Cast":
        return node.attributes.get_int("to", 0) == ir.DataType.FLOAT
    return node.op_type in _FUNCTIONS and None not in _operands(node) and "block_size" not in node.attributes


def _operands(node: ir.Node) -> Sequence[npt.NDArray[np.generic] | None]:
    """The constants of a node, of one element each; None for what is none."""
    found = [small_constant(value) for value in node.inputs[1:]]
    return [None if one is None or one.size != 1 else one.reshape(()) for one in found]


def _dequantized(x: npt.NDArray[np.uint8], scale: Numbers, zero: npt.NDArray[np.uint8] | None = None) -> Numbers:
    shifted = x.astype(np.int32) - (0 if zero is None else np.int32(zero))
    return np.asarray(shifted.astype(np.float32) * scale)


# In float32, each rounded once, as ONNX Runtime does.
_FUNCTIONS: Mapping[str, Callable[..., npt.NDArray[np.generic]]] = {
    "Cast": lambda x: x.astype(np.float32),
    "DequantizeLinear": _dequantized,
    "Add": lambda x, c: x + c,
    "Sub": lambda x, c: x - c,
    "Mul": lambda x, c: x * c,
    "Div": lambda x, c: x / c,
}


def _codes(block: ir.Node, numbers: Numbers) -> Codes:
    """What the block makes of the floats."""
    scale = small_constant(block.inputs[_X_SCALE])
    assert scale is not None
    low, high = (block.attributes.get_int(f"activation_{end}", 0) for end in ("low", "high"))
    return codes_of(numbers, CodeFormat(float(scale.reshape(())), low, high))
