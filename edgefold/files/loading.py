# SPDX-License-Identifier: Apache-2.0
"""Load an ONNX file that nobody vouches for into an ``onnx_ir.Model``, weights left on disk where they can be."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import ModelProto, TensorProto

from edgefold.errors import ModelError
from edgefold.files.confine import confined
from edgefold.files.dense import make_dense
from edgefold.files.opset import check_versions
from edgefold.files.quoting import quoted
from edgefold.files.safety import check_model_file, tensors
from edgefold.passes._names import name_apart

MODEL_FILE = "model.onnx"
"""The name of the model in an output folder of ``compress``."""

_UNKNOWN_OPERATOR = "No Op registered for"  # how onnx's checker begins the message
_WEIGHTS_ARE_NO_INPUTS = 4  # the IR version; under an older one onnx's tools know no weight that is not an input too
_NO_SHAPE = "Field 'shape' of 'type' is required"  # likewise, of an input or output of unknown rank


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that passed every check.

    Attributes:
        model: the graph, whose nodes all have names of their own; tensors of external data are mapped when first read,
            nothing else is held in memory twice.
        path: the absolute path of the model file.
        bytes: size of the model file and its external data files together.
        data_files: the external data files, absolute and without links, in the order of their names.
        notes: what a report should say about the file as it was found; one sentence each.
    """

    model: ir.Model
    path: Path
    bytes: int
    data_files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the model file followed by its data files, in hexadecimal; read when first asked for."""
        digest = hashlib.sha256()
        for path in (self.path, *self.data_files):
            with path.open("rb") as file:
                while chunk := file.read(2**20):
                    digest.update(chunk)
        return digest.hexdigest()


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Check and load a model.

    Args:
        path: an ``.onnx`` file, or an output folder of ``compress`` (then ``model.onnx`` inside it).

    Returns:
        The loaded model. Its tensors may be backed by the files, which must stay in place while it is used.

    Raises:
        ModelError: the file is missing, unsafe, malformed, too old or too new, or has what EdgeFold cannot represent.
    """
    path = Path(path).absolute()  # onnx_ir checks paths only against a folder that is spelt out
    if path.is_dir():
        path /= MODEL_FILE
        if not path.is_file():
            raise ModelError(
                f"{path.parent}: is a folder without {MODEL_FILE}; expected an .onnx file or an output folder"
            )
    data_files = _check(path)
    # Parsed a second time on purpose: the checker holds a copy of its own, and only one copy should live at a time.
    proto = check_model_file(path)
    try:
        _check_representable(proto)
        sparse = make_dense(proto, path.parent)
        model = ir.serde.deserialize_model(proto)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{path}: cannot be read by onnx_ir: {_one_line(error)}") from error
    _set_folder(model, path.parent)
    name_apart(model)
    notes = _take_weights_out_of_inputs(model)
    model.ir_version = max(model.ir_version, _WEIGHTS_ARE_NO_INPUTS)
    if sparse:
        notes += (f"{sparse} sparse tensors are held dense.",)
    size = sum(file.stat().st_size for file in (path, *data_files))
    return LoadedModel(model, path, size, data_files, notes)


def _check(path: Path) -> tuple[Path, ...]:
    """Run our checks, then onnx's checker on the path; returns the external data files."""
    proto = check_model_file(path)
    try:
        check_versions(proto)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    locations = {
        entry.value
        for tensor, _ in tensors(proto)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    del proto
    try:
        onnx.checker.check_model(os.fspath(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        if _UNKNOWN_OPERATOR in str(error):
            # ONNX Runtime has operators of its own in the standard domain; it has the last word on them.
            return _confined(path, locations)
        if _NO_SHAPE in str(error):
            _check_ranks(path)
            return _confined(path, locations)
        raise ModelError(f"{path}: the ONNX checker refuses it: {_one_line(error)}") from error
    return _confined(path, locations)


def _check_ranks(path: Path) -> None:
    """Outputs may be of unknown rank, as exporters of scripted models write them; inputs have to be made."""
    graph = onnx.load(path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        kind = value.type.WhichOneof("value")
        if value.name not in stored and kind == "tensor_type" and not value.type.tensor_type.HasField("shape"):
            raise ModelError(
                f"{path}: input {quoted(value.name)} is of unknown rank; give it a shape, of names where sizes vary"
            )


def _confined(path: Path, locations: set[str]) -> tuple[Path, ...]:
    return tuple(sorted({confined(path.parent, location) for location in locations}))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _check_representable(proto: ModelProto) -> None:
    """Name what onnx_ir drops or cannot hold, rather than lose it."""
    for value in (*proto.graph.input, *proto.graph.output):
        kind = value.type.WhichOneof("value")
        if kind in ("map_type", "opaque_type") or value.type.sequence_type.elem_type.HasField("map_type"):
            raise ModelError(
                f"{quoted(value.name)} is a map, which EdgeFold cannot handle; export with tensor outputs only "
                "(skl2onnx: options={'zipmap': False})"
            )
    if proto.training_info:
        raise ModelError("holds training information; export it for inference")


def _set_folder(model: ir.Model, folder: Path) -> None:
    ir.external_data.set_base_dir(model.graph, folder)
    for function in model.functions.values():
        ir.external_data.set_base_dir(function.graph, folder)


def _take_weights_out_of_inputs(model: ir.Model) -> tuple[str, ...]:
    """Undo the convention of old exporters that lists every initializer as a graph input too.

    Up to IR version 3 this was compulsory and meant nothing; torch kept it up to version 1.2. From IR version 4 it
    would mean that a caller may replace the weight, so nothing could be folded or quantized. Where only some
    initializers are inputs, they are meant as defaults and stay.
    """
    graph = model.graph
    both = [value for value in graph.inputs if value.is_initializer()]
    if not both or (model.ir_version >= 4 and len(both) < len(graph.initializers)):
        return ()
    kept = [value for value in graph.inputs if not value.is_initializer()]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    return (f"All {len(both)} weights were listed as inputs too, as old exporters do; they are taken as constants.",)
