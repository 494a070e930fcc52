# SPDX-License-Identifier: Apache-2.0
"""The one place that makes ONNX Runtime sessions: options, the EdgeFold operator library, and readable errors."""

from __future__ import annotations

import mmap
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefold.errors import ModelError
from edgefold.float_caches import FloatCaches, coded_caches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import onnx_ir as ir
    import onnxruntime as ort

DOMAIN = "ai.edgefold"
OPTIMIZED = "optimized.onnx"
_OUTER_CONSTANTS = (1, 29)
_FATAL_ONLY = 4  # errors come back as exceptions, which become one line
# For sessions that run once: no second copy of the weights in the layout of ONNX Runtime's own kernels.
LITTLE_MEMORY = {"session.disable_prepacking": "1"}


def make_session(
    model: ir.Model | bytes | Path,
    *,
    threads: int = 0,
    library: bool = True,
    optimize: bool = True,
    config: Mapping[str, str] | None = None,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """Opens a model in ONNX Runtime on the CPU; one whose caches hold codes as `float_caches.FloatCaches`.

    Args:
        model: a model in memory, its serialized bytes, or a file.
        threads: threads inside an operator; 0 leaves the choice to ONNX Runtime.
        library: register the EdgeFold kernels where the model uses ``ai.edgefold``; without them ONNX Runtime
            inlines the operators' function bodies.
        optimize: False turns ONNX Runtime's graph optimizations off, so that every tensor keeps its name.
        config: further session configuration entries of ONNX Runtime.
        profile: a folder; the session takes the time of every node, and writes the graph that it runs to the folder's
            `OPTIMIZED`.

    Raises:
        ModelError: ONNX Runtime refuses the model; one line, with the operator it does not know.
    """
    import onnxruntime as ort

    options = _options(ort, threads, optimize)
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile / "profile")
        options.optimized_model_filepath = str(profile / OPTIMIZED)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
    if isinstance(model, bytes | Path):
        return _open(model, options, library)
    return _open_in_memory(model, options, library)


def run(
    session: ort.InferenceSession, outputs: Sequence[str] | None, feeds: Mapping[str, np.ndarray[Any, Any]]
) -> list[np.ndarray[Any, Any]]:
    """``session.run`` with ONNX Runtime's exceptions turned into one line.

    Raises:
        ModelError: the run failed: feeds that do not fit, or a node that cannot compute them.
    """
    try:
        return list(session.run(outputs, dict(feeds)))
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot run the model: {_one_line(error)}") from error


def gives_outer_constants() -> bool:
    """Whether ONNX Runtime shows kernels in the bodies of If, Loop and Scan the weights of the graphs around.

    It does from 1.29 on; 1.28 opens no file with the library registered whose bodies have packed weights out there.
    """
    import onnxruntime as ort

    return tuple(map(int, ort.__version__.split(".")[:2])) >= _OUTER_CONSTANTS


def compute(model: ir.Model) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Opens a model that is run a few times, on one thread; gives a function from its inputs to its outputs.

    Raises:
        ModelError: ONNX Runtime refuses the model, or, from the function, cannot run it on these inputs.
    """
    session = make_session(model, threads=1, config=LITTLE_MEMORY)
    inputs = {one.name for one in session.get_inputs()}
    outputs = [one.name for one in session.get_outputs()]

    def values(feeds: Mapping[str, Any]) -> dict[str, Any]:
        used = {name: value for name, value in feeds.items() if name in inputs}
        return dict(zip(outputs, run(session, outputs, used), strict=True))

    return values


def _options(ort: Any, threads: int, optimize: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    return options


def _open(
    model: bytes | Path, options: ort.SessionOptions, library: bool, weights: object = None
) -> ort.InferenceSession:
    import onnxruntime as ort

    if library and uses_library(model):
        from edgefold.runtime import ops_library

        options.register_custom_ops_library(str(ops_library()))
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        place = "the model" if isinstance(model, bytes) else str(model)
        raise ModelError(f"{place}: ONNX Runtime {ort.__version__} refuses it: {_one_line(error)}") from error
    session.edgefold_weights = weights  # it points into them, so they must live as long
    caches = coded_caches(session.get_modelmeta().custom_metadata_map)
    return FloatCaches(session, caches) if caches else session


def uses_library(model: bytes | Path) -> bool:
    """Whether a model has ``ai.edgefold`` operators, for which the EdgeFold kernels would run.

    Raises:
        ModelError: the file cannot be read.
    """
    if isinstance(model, bytes):
        return DOMAIN.encode() in model
    try:
        with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return text.find(DOMAIN.encode()) >= 0
    except (OSError, ValueError) as error:
        raise ModelError(f"{model}: cannot read the model: {error}; give an .onnx file") from error


def _open_in_memory(model: ir.Model, options: ort.SessionOptions, library: bool) -> ort.InferenceSession:
    """Opens it in the way that takes the least memory: as a message; above 64 MB without its weights, or as files."""
    from edgefold.files.external import EXTERNAL_ABOVE, weight_bytes
    from edgefold.files.saving import save_model
    from edgefold.files.serialization import serialize
    from edgefold.shared_weights import share_weights

    if weight_bytes(model) <= EXTERNAL_ABOVE:
        return _open(serialize(model), options, library)
    if (shared := share_weights(model)) is not None:
        shared.add_to(options)
        return _open(shared.around, options, library, shared.arrays)
    with tempfile.TemporaryDirectory(prefix="edgefold-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path, external=True, durable=False)
        # The file may go when the session stands: ONNX Runtime keeps it mapped or has copied it.
        return _open(path, options, library)


def _one_line(error: Exception) -> str:
    """ONNX Runtime's message without its codes and call stack, the unknown operator first."""
    text = " ".join(str(error).split())
    unknown = re.search(r"(?:Fatal error: )([\w.\-]*):?([\w]+)\(-?\d+\) is not a registered function/op", text)
    if unknown:
        name = f"{unknown[1]}::{unknown[2]}" if unknown[1] else unknown[2]
        return f"unknown operator {name}; EdgeFold loads no operator library but its own"
    missing = re.search(r"No Op registered for (\w+) with domain_version of (\d+)", text)
    if missing:
        return f"unknown operator {missing[1]} in its domain's version {missing[2]}"
    if missing := re.search(r"Could not find an implementation for (\w+)\(\d+\) node with name '(.*?)'", text):
        return (
            f"node {missing[2]}: its CPU kernels of {missing[1]} do not take this element type; export the model in "
            "float32, or in float16 where that runs"
        )
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from \S+ failed:\s*", "", text)
    text = re.sub(r"/[^\s:]*/onnxruntime/[^\s:]+:\d+ .*?\)\s", "", text)
    return text[:400]
