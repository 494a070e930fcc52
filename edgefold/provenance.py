# SPDX-License-Identifier: Apache-2.0
"""Where an artefact comes from: metadata inside the model, and a manifest of hashes beside it."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgefold import __version__
from edgefold.errors import UsageError, VerificationError

MANIFEST = "manifest.json"


def stamp(model: ir.Model, *, recipe_text: str, input_sha256: str) -> None:
    """Write version, recipe hash and input hash into the model's ``metadata_props``."""
    model.metadata_props["edgefold.version"] = __version__
    model.metadata_props["edgefold.recipe_sha256"] = hashlib.sha256(recipe_text.encode()).hexdigest()
    model.metadata_props["edgefold.input_sha256"] = input_sha256


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions that decide what a model computes: EdgeFold, the runtime, the libraries, the machine."""
    import numpy as np
    import onnx
    import onnxruntime

    return {
        "edgefold": __version__,
        "onnxruntime": str(onnxruntime.__version__),
        "onnx": str(onnx.__version__),
        "onnx_ir": str(ir.__version__),
        "numpy": str(np.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def write_manifest(folder: Path, *, model_path: Path, model_sha256: str, task: Path | None) -> None:
    """Write ``manifest.json``: hashes of all files of the folder, of the input model and of the task."""
    files = {
        path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in (MANIFEST, "run.log")  # the log goes on after the manifest
    }
    manifest: dict[str, Any] = {
        "files": files,
        "input": {"name": model_path.name, "sha256": model_sha256},
        "task": {"name": task.name, "sha256": file_sha256(task)} if task else None,
        "versions": versions(),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def check_manifest(folder: Path) -> dict[str, Any]:
    """Compare the files of an output folder with its manifest, and return the manifest.

    Raises:
        UsageError: not an output folder of ``edgefold compress``.
        VerificationError: a file is missing or has changed; names it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder}: no {MANIFEST} here; expected an output folder of `edgefold compress`")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files: dict[str, Any] = dict(manifest["files"])
    except (ValueError, KeyError, TypeError):
        raise VerificationError(f"{path}: not a manifest; compress again") from None
    for name, entry in files.items():
        file = folder / name
        if not file.is_file():
            raise VerificationError(f"{file}: missing, though the manifest lists it; compress again")
        if file.stat().st_size != entry["bytes"] or file_sha256(file) != entry["sha256"]:
            raise VerificationError(f"{file}: differs from what `edgefold compress` wrote (see {MANIFEST})")
    return manifest
