# SPDX-License-Identifier: Apache-2.0
"""Write a model as one protobuf, its weights streamed into it one by one.

Protobuf's own serializer would hold the whole model two more times in memory. Here it is given the graph without its
large initializers, and these are appended to the graph's bytes as fields of their own; protobuf leaves the order of
fields free, so the result is the same message.
"""

from __future__ import annotations

import io
from typing import BinaryIO

import onnx_ir as ir
from google.protobuf.message import EncodeError
from onnx import GraphProto, ModelProto, TensorProto

from edgefold.errors import ModelError
from edgefold.files.external import Layout, is_large
from edgefold.files.opset import written_ir_version
from edgefold.files.safety import MAX_PROTOBUF_BYTES

_LENGTH_DELIMITED = 2  # protobuf's wire type of messages and bytes
_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


ELSEWHERE = "weights"
"""The file in which tensors lie that are left out of a message."""


def serialize(model: ir.Model, left_out: Layout | None = None) -> bytes:
    """The model as one message with all weights inside, of the IR version that ``save_model`` would write.

    Args:
        model: not changed.
        left_out: tensors that are not to be inside; the message says that they lie in the file `ELSEWHERE`.

    Raises:
        ModelError: the message exceeds protobuf's 2 GB.
    """
    file = io.BytesIO()
    write_model(model, left_out or {}, ELSEWHERE, file)
    return file.getvalue()


def write_model(model: ir.Model, layout: Layout, location: str, file: BinaryIO) -> None:
    """Write a model whose tensors in ``layout`` lie in the file ``location``, and all others inside it.

    Args:
        model: not changed.
        layout: where the external tensors lie.
        location: name of the external data file, relative to the model.
        file: open for writing.

    Raises:
        ModelError: the message exceeds protobuf's 2 GB.
    """
    skeleton = model.clone()
    skeleton.ir_version = written_ir_version(model)
    streamed = _arrange(skeleton, layout, location)
    for graph in (skeleton.graph, *(function.graph for function in skeleton.functions.values())):
        for node in graph.all_nodes():
            _embed_attributes(node)
    try:
        message = ir.to_proto(skeleton)
        graph_bytes = message.graph.SerializeToString()
        message.ClearField("graph")
        head = message.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise ModelError(f"the model cannot be written as one protobuf: {' '.join(str(error).split())}") from error
    headers = [_tensor_header(name, tensor) for name, tensor in streamed.items()]
    length = len(graph_bytes) + sum(
        len(header) + tensor.nbytes for header, tensor in zip(headers, streamed.values(), strict=True)
    )
    if len(head) + length + 16 > MAX_PROTOBUF_BYTES:
        raise ModelError(f"the model needs {length} bytes and one file holds at most 2 GB; write external data")
    file.write(head + _field(_GRAPH, length) + graph_bytes)
    for header, tensor in zip(headers, streamed.values(), strict=True):
        file.write(header)
        file.write(tensor.tobytes())


def _arrange(model: ir.Model, layout: Layout, location: str) -> dict[str, ir.TensorProtocol]:
    """Point the external tensors to their place; take out the large ones to be streamed (not those of subgraphs)."""
    streamed: dict[str, ir.TensorProtocol] = {}
    for graph in model.graphs():
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None:
                continue
            if id(tensor) in layout:
                offset, length = layout[id(tensor)]
                shape = ir.Shape(tensor.shape.numpy())
                value.const_value = ir.ExternalTensor(location, offset, length, tensor.dtype, shape=shape, name=name)
            elif graph is model.graph and is_large(tensor):
                streamed[name] = tensor
                graph.initializers.pop(name)
            else:
                value.const_value = _embedded(tensor)
    return streamed


def _embedded(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    proto = _proto(tensor.name, tensor)
    proto.raw_data = tensor.tobytes()
    return ir.serde.TensorProtoTensor(proto)


def _embed_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
            node.attributes[name] = ir.AttrTensor(name, _embedded(attribute.value))


def _proto(name: str, tensor: ir.TensorProtocol) -> TensorProto:
    shape = tensor.shape.numpy()
    return TensorProto(name=name, data_type=tensor.dtype.value, dims=shape, doc_string=tensor.doc_string or "")


def _tensor_header(name: str, tensor: ir.TensorProtocol) -> bytes:
    """All of an initializer's field up to the bytes of its data."""
    start: bytes = _proto(name, tensor).SerializeToString() + _field(_RAW_DATA, tensor.nbytes)
    return _field(_INITIALIZER, len(start) + tensor.nbytes) + start


def _field(number: int, length: int) -> bytes:
    """The tag and the length that stand before the bytes of a field."""
    encoded = bytearray()
    for value in (number << 3 | _LENGTH_DELIMITED, length):
        while value > 0x7F:
            encoded.append(value & 0x7F | 0x80)
            value >>= 7
        encoded.append(value)
    return bytes(encoded)
