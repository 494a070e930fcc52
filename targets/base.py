# SPDX-License-Identifier: Apache-2.0
"""What a target is to the pipeline: a name, and a way to write a model so that its runtime takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import onnx_ir as ir


class Target(Protocol):
    """A kind of runtime that EdgeFold emits for."""

    @property
    def name(self) -> str: ...

    def emit(self, model: ir.Model, folder: Path, external: bool | None) -> Path:
        """Write ``model`` into ``folder`` and return the path of the file to load.

        Args:
            model: the compressed model.
            folder: an existing folder.
            external: weights beside the model (True), inside it (False), or by size (None).
        """
        ...
