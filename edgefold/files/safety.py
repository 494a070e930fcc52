# SPDX-License-Identifier: Apache-2.0
"""The first look at a model file: nothing it says is believed before it is checked.

:func:`check_model_file` parses the protobuf and walks every tensor in it, wherever it stands, before onnx, onnx_ir or
ONNX Runtime may open a path that the file names. The tensors are found by following the protobuf schema itself, so that
a place added to ONNX later is walked too. No tensor data outside the model file is read.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from edgefold.errors import ModelError
from edgefold.files.confine import external_range
from edgefold.files.quoting import quoted
from edgefold.files.wellformed import check_wellformed

MAX_PROTOBUF_BYTES = 2**31 - 1
"""The most bytes that one protobuf message can have."""

MAX_NESTING = 24
"""The deepest nesting of subgraphs; protobuf itself stops reading at 32."""

MAX_SPARSE_ELEMENTS = 2**27
"""The most elements a sparse tensor may stand for: all readers make it dense, and a dense one has to fit 2 GB."""

_MAX_ELEMENTS = 2**63 - 1
_FOREIGN = (  # what people hand over by mistake: magic bytes, their offset, what it is
    (b"version https://git-lfs", 0, "a Git LFS pointer, not the model; run `git lfs pull`"),
    (b"PK\x03\x04", 0, "a zip archive (a PyTorch checkpoint or a Keras model?); export it to ONNX first"),
    (b"\x89HDF", 0, "an HDF5 file (a Keras model?); export it to ONNX first"),
    (b"TFL3", 4, "a TensorFlow Lite model; convert it with tf2onnx first"),
    (b"ORTM", 4, "a model in ONNX Runtime's .ort format; give the .onnx file it was made from"),
    (b"<!DOCTYPE", 0, "an HTML page; was the download refused?"),
)
_TYPED_FIELDS: dict[
    int, str
] = {  # the field that holds values of a type when raw_data is not used; all other types use int32_data
    TensorProto.FLOAT: "float_data",
    TensorProto.COMPLEX64: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}


def check_model_file(path: Path) -> ModelProto:
    """Parse a model file and refuse it if it is unsafe or not a well-formed ONNX model.

    Args:
        path: the ``.onnx`` file.

    Returns:
        The parsed model; external data is checked for place and length, but not read.

    Raises:
        ModelError: one line that names the file, the tensor or node, and the way out.
    """
    try:
        model = _parse(_read(path))
        try:
            _check(model, path.parent)
        except TypeError:  # protobuf hands out text that is not UTF-8 as bytes
            if _is_text(model):
                raise
            raise ModelError("has a name that is not UTF-8 text; the file is damaged") from None
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    return model


def _check(model: ModelProto, folder: Path) -> None:
    for tensor, where in tensors(model):
        try:
            check_tensor(tensor, folder)
        except ModelError as error:
            raise ModelError(f"{where}: {error}") from None
    check_wellformed(model)


def _is_text(message: Message) -> bool:
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        if field.message_type:
            if not all(_is_text(child) for child in values):
                return False
        elif field.type == field.TYPE_STRING and not all(isinstance(text, str) for text in values):
            return False
    return True


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError("is a folder; expected an .onnx file")
    try:
        # O_NONBLOCK: a named pipe must not make the open wait for a writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_PROTOBUF_BYTES:
                raise ModelError(
                    f"has {size} bytes, but a protobuf cannot exceed 2 GB; expected an .onnx file that keeps its "
                    "weights as external data"
                )
            data = file.read(MAX_PROTOBUF_BYTES)
    except FileNotFoundError:
        raise ModelError("no such file; expected an .onnx file") from None
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}") from None
    if not data:
        raise ModelError("is empty; expected an .onnx file")
    return data


def _parse(data: bytes) -> ModelProto:
    for magic, offset, explanation in _FOREIGN:
        if data.startswith(magic, offset):
            raise ModelError(f"is {explanation}")
    try:
        model: ModelProto = ModelProto.FromString(data)
    except DecodeError as error:
        if "MaxDepth" in str(error):
            raise ModelError(f"nests subgraphs too deeply; at most {MAX_NESTING} levels are read") from None
        raise ModelError(_why_unparsable(data)) from None
    if not model.HasField("graph"):
        raise ModelError("holds no graph; it is truncated or not an ONNX model")
    return model


def _why_unparsable(data: bytes) -> str:
    """Tell a truncated model from a file of another kind, by walking the outermost fields (tag, length, payload)."""
    position, fields = 0, 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag & 7 == 0:
            _, position = _varint(data, position)
        elif tag & 7 == 2:
            length, position = _varint(data, position)
            position += length
        else:  # ModelProto has only the two kinds above
            break
        if tag >> 3 not in ModelProto.DESCRIPTOR.fields_by_number:
            break
        fields += 1
        if position > len(data) and fields > 1:
            return f"is truncated: {len(data)} of at least {position} bytes are there; fetch or export it again"
    return "is not an ONNX model, or is damaged: the bytes are not a protobuf ModelProto"


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value, position


def tensors(model: ModelProto) -> Iterator[tuple[TensorProto, str]]:
    """Every tensor of a model with the words that name it, e.g. ``initializer 'w'``.

    Raises:
        ModelError: subgraphs are nested deeper than ``MAX_NESTING``, or a sparse tensor stands for an absurd size.
    """
    stack: list[tuple[Message, str, int]] = [(model, "model", 0)]
    while stack:
        message, where, depth = stack.pop()
        if isinstance(message, TensorProto):
            yield message, where
            continue
        if isinstance(message, GraphProto):
            depth += 1
            if depth > MAX_NESTING:
                raise ModelError(f"{where}: nests subgraphs too deeply; at most {MAX_NESTING} levels are read")
        if isinstance(message, SparseTensorProto) and math.prod(message.dims) > MAX_SPARSE_ELEMENTS:
            raise ModelError(f"{where}: is sparse and would have {math.prod(message.dims)} elements when made dense")
        for name, repeated in _tensor_fields()[message.DESCRIPTOR.full_name]:
            if repeated:
                children = getattr(message, name)
            else:
                children = [getattr(message, name)] if message.HasField(name) else []
            stack.extend((child, _where(where, name, child), depth) for child in children)


def _where(parent: str, field: str, message: Message) -> str:
    match message:
        case NodeProto():
            return f"node {quoted(message.name or ', '.join(message.output))} ({message.op_type})"
        case FunctionProto():
            return f"function {quoted(f'{message.domain}.{message.name}')}"
        case TensorProto() if field == "initializer":
            return f"initializer {quoted(message.name)}"
        case TensorProto() if field in ("values", "indices"):
            return f"{parent}, sparse tensor {quoted(message.name)} ({field})"
        case _:
            return parent


@functools.cache
def _tensor_fields() -> dict[str, tuple[tuple[str, bool], ...]]:
    """For each message type of ONNX: the fields (name, repeated) through which a TensorProto can be reached."""
    types: dict[str, Descriptor] = {}
    queue = [ModelProto.DESCRIPTOR]
    while queue:
        descriptor = queue.pop()
        types[descriptor.full_name] = descriptor
        queue += [f.message_type for f in descriptor.fields if f.message_type and f.message_type.full_name not in types]
    reaching = {TensorProto.DESCRIPTOR.full_name}
    for _ in types:  # at most one round per type adds something
        reaching |= {
            name
            for name, descriptor in types.items()
            if any(f.message_type and f.message_type.full_name in reaching for f in descriptor.fields)
        }
    return {
        name: tuple(
            (field.name, field.is_repeated)
            for field in descriptor.fields
            if field.message_type and field.message_type.full_name in reaching
        )
        for name, descriptor in types.items()
    }


def check_tensor(tensor: TensorProto, folder: Path) -> None:
    """Refuse a tensor whose data are not exactly what its dims and data type ask for, or lie in a forbidden place.

    Raises:
        ModelError: see above; the message does not name the tensor.
    """
    if tensor.data_type == TensorProto.UNDEFINED or tensor.data_type not in TensorProto.DataType.values():
        raise ModelError(f"has the unknown data type {tensor.data_type}")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"has a negative dimension in {list(tensor.dims)}")
    count = math.prod(tensor.dims)
    if count > _MAX_ELEMENTS:
        raise ModelError(f"declares {list(tensor.dims)}, more elements than 64 bits can count")
    if tensor.data_type == TensorProto.STRING:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ModelError("holds strings as external data, which ONNX forbids")
        _check_equal(len(tensor.string_data), count, "strings")
        return
    data_type = ir.DataType(tensor.data_type)
    expected = -(-count * data_type.bitwidth // 8)
    if tensor.data_location == TensorProto.EXTERNAL:
        external_range(tensor, expected, folder)
    elif tensor.HasField("raw_data"):
        _check_equal(len(tensor.raw_data), expected, "bytes")
    else:
        field = _TYPED_FIELDS.get(tensor.data_type, "int32_data")
        packed = data_type.bitwidth in (2, 4)  # several in each byte, each byte in an int32; all others lie singly
        pairs = 2 if data_type.name.startswith("COMPLEX") else 1
        _check_equal(len(getattr(tensor, field)), expected if packed else count * pairs, f"values in {field}")


def _check_equal(found: int, expected: int, unit: str) -> None:
    if found != expected:
        raise ModelError(f"holds {found} {unit}, but dims and data type ask for {expected}; the file is damaged")
