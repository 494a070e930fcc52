# SPDX-License-Identifier: Apache-2.0
"""The compiled runtime: where the ONNX Runtime operator library lies, and which kernels this machine gets."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from edgefold.errors import EdgefoldError

_LIBRARY = Path("_lib") / "libedgefold_ops.so"
_BUILD_HINT = (
    "install the package (pip install .), or build it in place: cmake -S runtime -B build/runtime && "
    "cmake --build build/runtime && cmake --install build/runtime --prefix ."
)


@dataclass(frozen=True)
class KernelInfo:
    """One kernel variant.

    Attributes:
        family: what it computes: ``unpack``, ``gemm``, ``gemv``...
        name: its symbol, ``<family>_<architecture>_<feature>``.
        isa: the instruction set it needs, as ``EDGEFOLD_ISA`` spells it.
        supported: this machine can run it.
        chosen: operators run this one in this process.
    """

    family: str
    name: str
    isa: str
    supported: bool
    chosen: bool


def ops_library() -> Path:
    """Path of the operator library, to hand to ``SessionOptions.register_custom_ops_library``.

    Raises:
        EdgefoldError: the library was not built.
    """
    for folder in _package_folders():
        if (folder / _LIBRARY).is_file():
            return folder / _LIBRARY
    raise EdgefoldError(f"the operator library {_LIBRARY.name} is missing from the package; {_BUILD_HINT}")


def kernels() -> list[KernelInfo]:
    """All kernel variants of this architecture, family by family, fastest first.

    Raises:
        EdgefoldError: the compiled module was not built, or ``EDGEFOLD_ISA`` names an instruction set that does not
            exist or that this machine lacks.
    """
    try:
        from edgefold import _kernels
    except ImportError as error:
        raise EdgefoldError(f"the compiled module edgefold._kernels is missing ({error}); {_BUILD_HINT}") from error
    if refusal := _kernels.isa_error():
        raise EdgefoldError(refusal)
    return [
        KernelInfo(family, row.name(), row.isa(), row.supported(), row.chosen())
        for family, rows in {**_kernels.families(), **_kernels.operator_families()}.items()
        for row in rows
    ]


def _package_folders() -> list[Path]:
    """Where the build may have put compiled files: beside this file, or (editable install) in site-packages."""
    folders = [Path(__file__).resolve().parent]
    compiled = importlib.util.find_spec("edgefold._kernels")
    if compiled is not None and compiled.origin:
        folders.append(Path(compiled.origin).parent)
    return folders
