# SPDX-License-Identifier: Apache-2.0
"""Writes the functions of ``ai.edgefold`` into a model, and their documentation out of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping

import onnx
import onnx_ir as ir
from onnxscript.values import OnnxFunction

from edgefold.errors import ModelError
from edgefold.ops import images
from edgefold.ops.activation import Activation
from edgefold.ops.attention import (
    AttendCodes,
    CachedAttention,
    QuantizeRows,
    RowCodes,
    RowScales,
    ShiftAttention,
    ShiftMultiHeadAttention,
    SplitHeads,
)
from edgefold.ops.channel_gate import CodeGate, CodeMean
from edgefold.ops.code_lookup import CodeLookup
from edgefold.ops.conv_block import FusedConvBlock
from edgefold.ops.feed_forward import FusedFeedForward
from edgefold.ops.four_bits import ImageToStore, StoredImage
from edgefold.ops.functions import FloatConv, ShiftConv, ShiftGather, ShiftMatMul
from edgefold.ops.inverted_residual import FusedInvertedResidual, FusedPointwise
from edgefold.ops.l1_normalization import L1LayerNormalization
from edgefold.ops.linear_block import FusedLinear
from edgefold.ops.moe import ShiftMoE, ShiftRows, ShiftUnpackStack
from edgefold.ops.unpack import DOMAIN, VERSION, ShiftLevels, ShiftUnpack

OLDEST_OPSET = 21
NEWEST_OPSET = 26
OPERATORS: tuple[OnnxFunction, ...] = (
    ShiftMatMul,
    ShiftConv,
    FloatConv,
    ShiftGather,
    L1LayerNormalization,
    FusedLinear,
    FusedFeedForward,
    ShiftAttention,
    ShiftMultiHeadAttention,
    QuantizeRows,
    CachedAttention,
    ShiftMoE,
    FusedConvBlock,
    FusedInvertedResidual,
    CodeMean,
    CodeGate,
    CodeLookup,
)
_CALLED = (
    SplitHeads,
    AttendCodes,
    RowCodes,
    RowScales,
    FusedPointwise,
    StoredImage,
    ImageToStore,
    ShiftUnpackStack,
    ShiftRows,
    Activation,
    ShiftUnpack,
    ShiftLevels,
)
_FUNCTIONS = {function.name: function for function in (*OPERATORS, *_CALLED)}
_WITHOUT_PACKING = {function.name: function for function in (images.StoredImage, images.ImageToStore)}
_PACKING = ("x_packed", "residual_packed", "y_packed")


def function_protos(
    opset: int, names: Iterable[str] | None = None, *, packing: bool = True
) -> list[onnx.FunctionProto]:
    """The function bodies of the named operators and of what they call.

    Args:
      opset: version of the standard domain that the model imports; a body is inlined under it.
      names: operator names, such as "ShiftMatMul"; all by default.
      packing: whether codes of four bits may lie two a byte, for which bodies have branches.

    Raises:
      ModelError: the opset is not between 21 and 26, where the bodies mean the same.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ModelError(
            f"operators of {DOMAIN} need opset {OLDEST_OPSET} to {NEWEST_OPSET}, not {opset}: convert it first"
        )
    chosen: dict[str, onnx.FunctionProto] = {}
    wanted = {function.name for function in OPERATORS} if names is None else set(names)
    functions = _FUNCTIONS if packing else _FUNCTIONS | _WITHOUT_PACKING
    for name in functions:
        if name in wanted:
            _choose(name, functions, opset, chosen)
    return list(chosen.values())


def _choose(
    name: str, functions: Mapping[str, OnnxFunction], opset: int, chosen: dict[str, onnx.FunctionProto]
) -> None:
    """Adds the body of an operator behind those of what it calls."""
    if name in chosen:
        return
    proto = functions[name].to_function_proto()
    for node in _all_nodes(proto.node):
        if node.domain == DOMAIN:
            _choose(node.op_type, functions, opset, chosen)
    del proto.opset_import[:]
    proto.opset_import.extend([onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(DOMAIN, VERSION)])
    proto.doc_string = ""
    chosen[name] = proto


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of the graphs within them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _all_nodes(attribute.g.node)


def add_functions(model: ir.Model) -> None:
    """Gives a model the functions of the ``ai.edgefold`` nodes it holds, and the import of the domain.

    Functions of the domain that no node uses any more are dropped. The model is changed in place.

    Raises:
      ModelError: the model's opset is not between 21 and 26.
    """
    used = {node.op_type for node in model.graph.all_nodes() if node.domain == DOMAIN}
    for key, function in model.functions.items():
        if key[0] != DOMAIN:
            used.update(node.op_type for node in function.all_nodes() if node.domain == DOMAIN)
    for key in [key for key in model.functions if key[0] == DOMAIN]:
        del model.functions[key]
    if not used:
        model.graph.opset_imports.pop(DOMAIN, None)
        return
    model.graph.opset_imports[DOMAIN] = VERSION
    packing = any(node.attributes.get_int(name, 0) for node in model.graph.all_nodes() for name in _PACKING)
    for proto in function_protos(model.graph.opset_imports.get("", OLDEST_OPSET), used, packing=packing):
        body = ir.serde.deserialize_function(proto)
        model.functions[body.identifier()] = body


def operator_documentation() -> dict[str, str]:
    """A page of text (Markdown) for each operator, made from its docstring and its signature."""
    pages: dict[str, str] = {}
    for function in OPERATORS:
        text = inspect.getdoc(function.function) or ""
        summary, _, details = text.partition("\n")
        names = ", ".join(inspect.signature(function.function).parameters)
        pages[function.name] = (
            f"# {DOMAIN}.{function.name}\n\n{summary}\n\nVersion {VERSION}. `{function.name}({names})`\n\n"
            f"```text\n{details.strip()}\n```\n"
        )
    return pages
