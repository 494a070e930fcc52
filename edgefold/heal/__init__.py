# SPDX-License-Identifier: Apache-2.0
"""Healing: a graph becomes a torch module, is trained to do again what the original does, and goes back to ONNX.

The only package that needs torch (``pip install 'edgefold[heal]'``), which its modules import and this one does not.
The package is itself the verb, because both are called ``edgefold.heal``: ``edgefold.heal("student.onnx", ...)``.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgefold.errors import UsageError

if TYPE_CHECKING:
    from edgefold.heal.report import HealReport


def require_torch() -> None:
    """Check that torch can be imported, before any work is done.

    Raises:
        UsageError: it is not installed; says how to install it.
    """
    if importlib.util.find_spec("torch") is None:
        raise UsageError("healing needs torch, which is not installed; run: pip install 'edgefold[heal]'")


class _CallablePackage(ModuleType):
    """A package that can be called like the other verbs."""

    def __call__(
        self,
        student: str | os.PathLike[str],
        teacher: str | os.PathLike[str],
        task: str | os.PathLike[str],
        output: str | os.PathLike[str],
        **options: Any,
    ) -> HealReport | None:
        """Train a compressed model to do again what the original does; see ``edgefold.heal.command.heal``."""
        from edgefold.heal.command import heal

        return heal(student, teacher, task, output, **options)


sys.modules[__name__].__class__ = _CallablePackage
