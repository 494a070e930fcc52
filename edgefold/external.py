# SPDX-License-Identifier: Apache-2.0
"""Lay the weights of a model out in one external data file, and serialize the rest of it around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO, TypeAlias

import onnx_ir as ir
from google.protobuf.message import EncodeError
from onnx import TensorProto

from edgefold.errors import ModelError

EXTERNAL_ABOVE = 64 * 2**20
"""Bytes of weights above which they are written beside the model unless the user says otherwise."""

MAX_EMBEDDED_BYTES = 2**31 - 2**26
"""Bytes of weights that fit into one protobuf (2 GB) and leave room for the graph."""

ALIGNMENT = 64
"""Each external tensor starts at a multiple of this: a cache line, and the widest vector register."""

_SMALLEST = 1024  # shapes, axes and scales stay inside, where shape inference finds them

Layout: TypeAlias = Mapping[int, tuple[int, int]]
"""``id`` of a tensor -> (offset, length) in the data file, in bytes."""


def weight_values(model: ir.Model) -> Iterator[ir.Value]:
    """All initializers that have a value, in the graph and its subgraphs."""
    for graph in model.graphs():
        yield from (value for value in graph.initializers.values() if value.const_value is not None)


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers; a tensor object that several of them hold counts once."""
    tensors = {id(value.const_value): value.const_value for value in weight_values(model)}
    return sum(tensor.nbytes for tensor in tensors.values() if tensor is not None)


def write_tensors(model: ir.Model, file: BinaryIO) -> dict[int, tuple[int, int]]:
    """Write the weights, one at a time, each aligned; a tensor object used twice is written once.

    Returns:
        Where each tensor lies, for :func:`serialize`.
    """
    layout: dict[int, tuple[int, int]] = {}
    position = 0
    for value in weight_values(model):
        tensor = value.const_value
        if tensor is None or id(tensor) in layout or tensor.dtype == ir.DataType.STRING or tensor.nbytes < _SMALLEST:
            continue
        padding = -position % ALIGNMENT
        file.write(bytes(padding))
        if isinstance(tensor, ir.ExternalTensor):
            tensor.tofile(file)  # from file to file, inside the kernel where it can
        else:  # not tofile: numpy's forgets the reason when the disk is full
            file.write(tensor.tobytes())
        file.flush()
        layout[id(tensor)] = (position + padding, tensor.nbytes)
        position += padding + tensor.nbytes
        if file.tell() != position:
            raise ModelError(f"initializer {value.name!r} wrote other than its {tensor.nbytes} bytes")
    return layout


def serialize(model: ir.Model, layout: Layout, location: str, ir_version: int) -> bytes:
    """The protobuf of a model whose tensors in ``layout`` lie in the file ``location``, and all others inside.

    Raises:
        ModelError: the message exceeds protobuf's 2 GB.
    """
    copy = model.clone()
    copy.ir_version = ir_version
    for value in weight_values(copy):
        tensor = value.const_value
        if tensor is not None:
            value.const_value = _placed(tensor, layout, location, value.name or "")
    for graph in (copy.graph, *(function.graph for function in copy.functions.values())):
        for node in graph.all_nodes():
            _embed_attributes(node)
    try:
        return bytes(ir.to_proto(copy).SerializeToString())
    except (EncodeError, ValueError) as error:
        raise ModelError(f"the model cannot be written as one protobuf: {' '.join(str(error).split())}") from error


def _placed(tensor: ir.TensorProtocol, layout: Layout, location: str, name: str) -> ir.TensorProtocol:
    if id(tensor) in layout:
        offset, length = layout[id(tensor)]
        return ir.ExternalTensor(
            location, offset, length, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    return _embedded(tensor)


def _embedded(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    proto = TensorProto(name=tensor.name, data_type=tensor.dtype.value, dims=tensor.shape.numpy())
    proto.raw_data = tensor.tobytes()
    return ir.serde.TensorProtoTensor(proto)


def _embed_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
            node.attributes[name] = ir.AttrTensor(name, _embedded(attribute.value))
