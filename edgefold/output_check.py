# SPDX-License-Identifier: Apache-2.0
"""``edgefold verify``: is an output folder what ``compress`` wrote, and does it still compute the same here?"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import onnx

from edgefold.errors import UsageError, VerificationError
from edgefold.files.loading import load_model
from edgefold.nodewise import Agreement, custom_nodes, prove_portable
from edgefold.plan import guessed_feeds
from edgefold.provenance import MANIFEST, check_manifest
from edgefold.session import make_session
from edgefold.verification import check_onnx


@dataclasses.dataclass(frozen=True)
class FolderVerdict:
    """Everything that held.

    Attributes:
        folder: the folder checked.
        files: number of files whose hashes agree with the manifest.
        nodes: custom nodes in the model.
        agreement: of stock ONNX Runtime and the library on made-up inputs; None without custom nodes or inputs.
    """

    folder: str
    files: int
    nodes: int
    agreement: Agreement | None

    def to_json(self) -> dict[str, Any]:
        return {"status": "ok", **dataclasses.asdict(self)}

    def to_text(self) -> str:
        lines = [f"{self.folder}: {self.files} files as written, valid ONNX"]
        if self.agreement:
            lines.append(
                f"stock ONNX Runtime and the library agree on {self.agreement.nodes} nodes "
                f"(largest difference {self.agreement.worst:.1e})"
            )
            if self.agreement.unreached:
                lines.append(f"{self.agreement.unreached} nodes in bodies that did not run were not compared")
        elif self.nodes:
            lines.append("the numerics were not compared: the model does not run on made-up inputs")
        return "\n".join(lines)


def verify_folder(folder: str | os.PathLike[str]) -> FolderVerdict:
    """Check hashes, the ONNX checker, and node by node that stock ONNX Runtime and the library agree.

    Raises:
        UsageError: not an output folder of ``compress``.
        VerificationError: a check failed; names the file or node.
    """
    place = Path(folder)
    if not place.is_dir():
        raise UsageError(f"{place}: no such folder; expected an output folder of `edgefold compress` with {MANIFEST}")
    manifest = check_manifest(place)
    loaded = load_model(place)
    try:
        check_onnx(loaded.model)
    except onnx.checker.ValidationError as error:
        raise VerificationError(f"{loaded.path}: invalid ONNX: {' '.join(str(error).split())[:400]}") from error
    nodes = custom_nodes(loaded.model)
    session = make_session(loaded.path)
    feeds = guessed_feeds(session, seed=0) if nodes else None
    agreement = None if feeds is None else prove_portable(loaded.model, feeds)
    return FolderVerdict(str(place), len(manifest["files"]), len(nodes), agreement)
