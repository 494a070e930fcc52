# SPDX-License-Identifier: Apache-2.0
"""Writes a trained torch model as ONNX with its arrays, byte for byte the same on every run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import optimizer


def write_model(
    model: torch.nn.Module, example: torch.Tensor, path: Path, *, optimize: bool, interface: dict[str, Any]
) -> None:
    """Exports ``model`` at opset 21, checks it and writes it.

    Args:
        model: The trained model, in evaluation mode.
        example: An input of the model; its dynamic dimensions may have any size above one.
        path: The file to write.
        optimize: Let the exporter rewrite its graph, which folds batch normalization into convolutions; else only
            constants are folded.
        interface: ``input_names``, ``output_names`` and ``dynamic_shapes`` of ``torch.onnx.export``.
    """
    program = torch.onnx.export(
        model, (example,), dynamo=True, optimize=optimize, opset_version=21, verbose=False, **interface
    )
    assert program is not None
    if not optimize:  # the exporter writes each missing bias as a small computation
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    proto = program.model_proto
    _drop_provenance(proto)
    proto.ir_version = 10
    onnx.checker.check_model(proto, full_check=True)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes a compressed ``.npz``; numpy stamps every member with the same date, so equal arrays give equal files."""
    np.savez_compressed(path, **arrays)


def describe(folder: Path) -> str:
    """Returns a line for each file of ``folder``: SHA-256, size in bytes, name."""
    files = sorted(path for path in folder.iterdir() if path.suffix in {".onnx", ".npz"})
    return "\n".join(
        f"{hashlib.sha256(f.read_bytes()).hexdigest()} {f.stat().st_size:8d} {folder.name}/{f.name}" for f in files
    )


def _drop_provenance(proto: onnx.ModelProto) -> None:
    """Removes stack traces: they name folders of the machine that trained, and differ from run to run."""
    proto.ClearField("metadata_props")
    proto.graph.ClearField("metadata_props")
    proto.graph.ClearField("doc_string")
    del proto.graph.value_info[:]
    described = [*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer]
    for function in proto.functions:
        function.ClearField("metadata_props")
        described.extend(function.node)
    for item in described:
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
