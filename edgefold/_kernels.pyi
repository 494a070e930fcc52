# SPDX-License-Identifier: Apache-2.0
"""Kernel variants of the runtime as callables; the C++ contract headers say what each computes."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

class Variant(Protocol):
    """One row of a family's table. Calling it runs the kernel; it raises ValueError where the CPU cannot."""

    def name(self) -> str: ...
    def isa(self) -> str: ...
    def supported(self) -> bool: ...
    def chosen(self) -> bool: ...

class Matrix:
    """A packed matrix [k, n]; keeps the arrays alive."""

    def __init__(
        self,
        codes: NDArray[np.uint8],
        selectors: NDArray[np.uint8],
        table: NDArray[np.int8],
        k: int,
        n: int,
    ) -> None: ...
    @property
    def linear(self) -> bool: ...

class Rows:
    """Quantized rows uint8 [M, stride], stride a multiple of 32; int8 codes as their bytes."""

    def __init__(self, codes: NDArray[np.uint8], is_unsigned: bool) -> None: ...

class Unpack(Variant):
    def __call__(self, matrix: Matrix, panel: int, first_unit: int, units: int, /) -> NDArray[np.int8]: ...

class Gemm(Variant):
    def __call__(self, rows: Rows, panels: NDArray[np.int8], /) -> NDArray[np.int32]: ...

class GemmShift(Variant):
    def __call__(self, matrix: Matrix, panel: int, rows: Rows, /) -> NDArray[np.int32]: ...

class Gemv(Variant):
    def __call__(self, matrix: Matrix, rows: Rows, /) -> NDArray[np.int32]: ...

class Quantize(Variant):
    def __call__(
        self, x: NDArray[np.float32], low: int, high: int, x_scale: float, shifts: NDArray[np.uint8], /
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32], NDArray[np.int16]]: ...

class GemmFloat(Variant):
    def __call__(self, x: NDArray[np.float32], panel: NDArray[np.int8], /) -> NDArray[np.float32]: ...

class Epilogue(Variant):
    def __call__(
        self,
        acc: NDArray[np.int32],
        row_scales: NDArray[np.float32],
        scales: NDArray[np.float32],
        bias: NDArray[np.float32],
        /,
    ) -> NDArray[np.float32]: ...

class Peak(Variant):
    def __call__(self, loop: int, times: int, size: int, /) -> tuple[int, float]: ...

def families() -> dict[str, list[Any]]: ...
def operator_families() -> dict[str, list[Any]]: ...
def isa_error() -> str | None: ...
