# SPDX-License-Identifier: Apache-2.0
"""The CPU target: one ONNX file that stock ONNX Runtime runs, faster with libedgefold_ops registered."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx_ir as ir

from edgefold.files.saving import save_model


@dataclasses.dataclass(frozen=True)
class Cpu:
    """ONNX Runtime on x86-64 and arm64."""

    name: str = "cpu"

    def emit(self, model: ir.Model, folder: Path, external: bool | None) -> Path:
        path = folder / "model.onnx"
        save_model(model, path, external=external)
        return path
