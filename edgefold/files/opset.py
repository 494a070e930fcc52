# SPDX-License-Identifier: Apache-2.0
"""Which ONNX versions EdgeFold takes, which it writes, and how a model is raised to opset 21.

The bodies of ``ai.edgefold`` operators are written in operators whose form is the same from opset 21 on, and a body is
inlined under the model's own opset; so a model below 21 is raised first.
"""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir
from onnx import ModelProto, TensorProto, helper, inliner, shape_inference, version_converter

from edgefold.errors import ModelError
from edgefold.files.quoting import quoted
from edgefold.files.unlisted import put_back, set_apart

OLDEST_OPSET = 7
"""The oldest opset that is read, and that ONNX Runtime runs."""

BODY_OPSET = 21
"""The oldest opset under which the bodies of ``ai.edgefold`` operators hold."""

_WRITTEN_IR_VERSION = 10
_SCAN_WITHOUT_BATCH = 9
_SMALL_ELEMENTS = 1024  # axes, scales, shapes: what the converter must see; anything larger is weights
_SEEN_TYPES = (ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL)
_IR_VERSION_OF_TYPE = {  # data types newer than IR version 10
    ir.DataType.FLOAT4E2M1: 11,
    ir.DataType.FLOAT8E8M0: 12,
    ir.DataType.INT2: 13,
    ir.DataType.UINT2: 13,
}


def _runs(opset: int, ir_version: int) -> bool:
    import onnxruntime as ort

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - ORT's exception classes are private to its binding; any refusal is the answer
        return False
    return True


@functools.cache
def newest_opset() -> int:
    """The newest opset that the installed ONNX Runtime runs, found by asking it (26 for 1.31)."""
    return next(opset for opset in range(onnx.defs.onnx_opset_version(), 0, -1) if _runs(opset, _WRITTEN_IR_VERSION))


def check_versions(model: ModelProto) -> None:
    """Refuse a model whose opset or IR version lies outside what is supported.

    Raises:
        ModelError: an opset below 7, above ONNX Runtime's newest, or an IR version that onnx does not know.
    """
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"has IR version {model.ir_version}; the installed onnx {onnx.__version__} reads 1 to {onnx.IR_VERSION}"
        )
    for owner in (model, *model.functions):
        where = f"function {quoted(owner.name)} " if isinstance(owner, onnx.FunctionProto) else ""
        for entry in owner.opset_import:
            if entry.domain in ("", "ai.onnx"):
                _check_opset(entry.version, where)


def _check_opset(version: int, where: str) -> None:
    if OLDEST_OPSET <= version <= newest_opset():
        return
    way_out = "export it again with a newer opset" if version < OLDEST_OPSET else "export it with an older opset"
    raise ModelError(
        f"{where}has opset {version}; expected {OLDEST_OPSET} to {newest_opset()}, which the installed ONNX Runtime "
        f"runs; {way_out}"
    )


def written_ir_version(model: ir.Model) -> int:
    """The IR version to write: 10, or what the model's data types ask for; ORT refuses onnx's own default."""
    newest = _WRITTEN_IR_VERSION
    for graph in model.graphs():
        for value in graph.initializers.values():
            newest = max(newest, _IR_VERSION_OF_TYPE.get(value.dtype, 0) if value.dtype else 0)
        for node in graph:
            for value in node.outputs:
                newest = max(newest, _IR_VERSION_OF_TYPE.get(value.dtype, 0) if value.dtype else 0)
    return newest


def raise_opset(model: ir.Model, minimum: int = BODY_OPSET) -> tuple[ir.Model, bool]:
    """Raise a model to an opset, unless it is there already.

    onnx's version converter does the work. It is shown the graph with only the small constants in it, so the size
    of the model does not matter; local functions, which it would drop, are inlined first.

    Args:
        model: not changed; its tensors are shared with the result.
        minimum: the opset wanted.

    Returns:
        The model to go on with, and whether it is another one than ``model``.

    Raises:
        ModelError: the converter cannot do it.
    """
    version = model.opset_imports.get("")
    if version is not None and version >= minimum:
        return model, False
    raised = model.clone()
    if version is None:  # only operators of other domains: nothing to convert
        raised.opset_imports[""] = minimum
    else:
        raised = _converted(raised, version, minimum)
    raised.ir_version = written_ir_version(raised)
    return raised, True


def _refuse_batched_scans(model: ir.Model, version: int) -> None:
    """The converter keeps a Scan of opset 8 as it is, which from opset 9 on has no batch axis and other inputs."""
    for node in model.graph.all_nodes():
        if version < _SCAN_WITHOUT_BATCH and node.op_type == "Scan" and node.domain == "":
            raise ModelError(f"{node.name}: a Scan of opset {version} cannot be raised; export with opset 9 or newer")


def _converted(model: ir.Model, version: int, minimum: int) -> ir.Model:
    _refuse_batched_scans(model, version)
    weights = _detach_weights(model)
    _read_files(model)
    set_apart(model)
    skeleton = ir.to_proto(model)
    try:
        if skeleton.functions:
            skeleton = shape_inference.infer_shapes(skeleton)  # the inliner converts only values of known type
            skeleton = inliner.inline_local_functions(skeleton, convert_version=True)
        proto = version_converter.convert_version(skeleton, minimum)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the model cannot be raised from opset {version} to {minimum}: {reason}; "
            f"export it with opset {minimum} or newer"
        ) from error
    result = ir.from_proto(proto)
    put_back(result)
    _attach_weights(result, weights)
    _restore_metadata(result, model)
    return result


def _detach_weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Turn all but the small constants of the main graph into graph inputs, in place; returns what was taken."""
    graph, taken = model.graph, {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or (tensor.size <= _SMALL_ELEMENTS and tensor.dtype in _SEEN_TYPES) or value in graph.inputs:
            continue
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        taken[name] = tensor
        graph.initializers.pop(name)
        graph.inputs.append(value)
    return taken


def _read_files(model: ir.Model) -> None:
    """Reads what is left in files beside the model: the converter wants to see it, and would forget the folder."""
    ir.external_data.load_to_model(model)
    graphs = (model.graph, *(function.graph for function in model.functions.values()))
    for node in (node for graph in graphs for node in graph.all_nodes()):
        for name, attribute in node.attributes.items():
            if isinstance(attribute, ir.Attr) and isinstance(tensor := attribute.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, ir.Tensor(tensor.numpy(), tensor.dtype, name=tensor.name))


def _attach_weights(model: ir.Model, weights: dict[str, ir.TensorProtocol]) -> None:
    graph = model.graph
    detached = [value for value in graph.inputs if value.name in weights]
    given = [value for value in graph.inputs if value.name not in weights]
    graph.inputs.clear()
    graph.inputs.extend(given)
    for value in detached:
        value.const_value = weights[value.name or ""]
        graph.register_initializer(value)


def _restore_metadata(result: ir.Model, original: ir.Model) -> None:
    """The converter keeps the graph only; names and notes of model, nodes and values come back by their names."""
    result.producer_name, result.producer_version = original.producer_name, original.producer_version
    result.domain, result.model_version = original.domain, original.model_version
    result.doc_string, result.graph.doc_string = original.doc_string, original.graph.doc_string
    result.metadata_props.update(original.metadata_props)
    result.graph.metadata_props.update(original.graph.metadata_props)
    notes = {value.name: node.metadata_props for node in original.graph.all_nodes() for value in node.outputs}
    for node in result.graph.all_nodes():
        for value in node.outputs:
            node.metadata_props.update(notes.get(value.name, {}))
