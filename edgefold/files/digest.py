# SPDX-License-Identifier: Apache-2.0
"""What a model in memory is, as one hash: by it ``--resume`` tells whose state it finds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import onnx_ir as ir

from edgefold.files.external import weight_values


def model_sha256(model: ir.Model) -> str:
    """SHA-256 of nodes, attributes, function bodies and weights, the same before a model is saved and after."""
    digest = hashlib.sha256()
    for part in _parts(model):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _parts(model: ir.Model) -> Iterator[bytes]:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            inputs = [value.name if value is not None else None for value in node.inputs]
            outputs = [value.name for value in node.outputs]
            yield repr((node.domain, node.op_type, node.overload, inputs, outputs)).encode()
            yield from (_attribute(node.attributes[name]) for name in sorted(node.attributes))
    for value in sorted(weight_values(model), key=lambda value: str(value.name)):
        tensor = value.const_value
        assert tensor is not None, "weight_values gives those that have one"
        yield repr((value.name, tensor.dtype.value, tensor.shape.numpy())).encode()
        yield tensor.tobytes()


def _attribute(attribute: ir.Attr) -> bytes:
    if attribute.is_ref():  # in a function's body, to an attribute of its caller
        return repr((attribute.name, attribute.ref_attr_name)).encode()
    if attribute.type in (
        ir.AttributeType.GRAPH,
        ir.AttributeType.GRAPHS,
    ):  # whose nodes and weights come by themselves
        return attribute.name.encode()
    # The message, since it holds a float as the file does: in 32 bits.
    return bytes(ir.serde.serialize_attribute(attribute).SerializeToString(deterministic=True))
