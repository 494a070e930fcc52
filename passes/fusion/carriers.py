# SPDX-License-Identifier: Apache-2.0
"""Nodes that pick elements and compute nothing: of codes they give the codes of what they would give of floats.

That holds for every pick, for zeros (their code is 0 in every format), and for the largest element, because rounding
and clipping never change the order of two numbers.
"""

from __future__ import annotations

import onnx_ir as ir

from edgefold.passes._constants import small_constant


def carried_inputs(node: ir.Node) -> tuple[ir.Value, ...]:
    """The inputs whose elements the node's one output holds; none where the node computes."""
    if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
        return ()
    data = [value for value in node.inputs if value is not None]
    if node.op_type == "Concat":
        return tuple(data) if node.attributes.get_int("axis", 0) == 1 else ()
    return tuple(data[:1]) if _picks(node) else ()


def _picks(node: ir.Node) -> bool:
    if node.op_type == "MaxPool":
        return len(node.attributes.get_ints("kernel_shape", ())) <= 2
    if node.op_type == "Resize":
        mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
        return node.attributes.get_string("mode", "nearest") == "nearest" and mode != "tf_crop_and_resize"
    if node.op_type == "Pad":
        filler = node.inputs[2] if len(node.inputs) > 2 else None
        value = small_constant(filler)
        zero = filler is None or (value is not None and not value.any())
        return node.attributes.get_string("mode", "constant") != "constant" or zero
    return node.op_type in ("Slice", "DepthToSpace")
