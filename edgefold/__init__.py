# SPDX-License-Identifier: Apache-2.0
"""EdgeFold compresses ONNX models and deploys them at the edge, with evidence.

The public names are loaded on first use, so that ``import edgefold`` and ``edgefold --help`` stay instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefold.api import bench, compress, diff, evaluate, heal, inspect, verify
    from edgefold.errors import ContractError, EdgefoldError, ModelError, UsageError, VerificationError
    from edgefold.files.loading import load_model
    from edgefold.runtime import ops_library
    from edgefold.session import make_session

__version__ = "0.1.0"

_HOME = {
    "bench": "edgefold.api",
    "compress": "edgefold.api",
    "diff": "edgefold.api",
    "evaluate": "edgefold.api",
    "heal": "edgefold.api",
    "inspect": "edgefold.api",
    "verify": "edgefold.api",
    "load_model": "edgefold.files.loading",
    "make_session": "edgefold.session",
    "ops_library": "edgefold.runtime",
    "ContractError": "edgefold.errors",
    "EdgefoldError": "edgefold.errors",
    "ModelError": "edgefold.errors",
    "UsageError": "edgefold.errors",
    "VerificationError": "edgefold.errors",
}

__all__ = [  # noqa: RUF022 - grouped: verbs, building blocks, errors
    "bench",
    "compress",
    "diff",
    "evaluate",
    "heal",
    "inspect",
    "verify",
    "load_model",
    "make_session",
    "ops_library",
    "ContractError",
    "EdgefoldError",
    "ModelError",
    "UsageError",
    "VerificationError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgefold' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
