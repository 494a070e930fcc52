# SPDX-License-Identifier: Apache-2.0
"""Operators that ONNX Runtime has in the standard domain and onnx does not list.

Its optimizer and its model builders write SimplifiedLayerNormalization there. ONNX Runtime runs such files; onnx's
checker and version converter refuse them, so they are shown these nodes as ones of a domain that they do not know.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

_APART = "ai.edgefold.unlisted"


def set_apart(model: ir.Model) -> None:
    """Give the nodes that onnx does not list another domain, in place."""
    for owner in _owners(model):
        nodes = [node for node in owner.all_nodes() if not (node.domain or onnx.defs.has(node.op_type))]
        for node in nodes:
            node.domain = _APART
        if nodes:
            owner.opset_imports[_APART] = 1


def put_back(model: ir.Model) -> None:
    """Undo ``set_apart``, in place."""
    for owner in _owners(model):
        if owner.opset_imports.pop(_APART, None) is not None:
            for node in owner.all_nodes():
                node.domain = "" if node.domain == _APART else node.domain


def _owners(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    yield model.graph
    yield from model.functions.values()
