# SPDX-License-Identifier: Apache-2.0
"""A Q4_0 matrix product of ggml through its public C interface, in the form that it repacks weights into for this CPU.

ggml is not part of EdgeFold: the reader names a folder with shared libraries (`libggml-base.so`, `libggml-cpu.so`) that
they built themselves. Declared by hand after ggml.h, ggml-alloc.h, ggml-backend.h and ggml-cpu.h of release 0.21.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import numpy as np

F32, Q4_0 = 0, 2  # enum ggml_type
BLOCK = 32  # weights that share a scale
REPACKED = "CPU_REPACK"  # name of the buffer type that stores weights in the order of the kernels
CONTEXT_BYTES = 1 << 20  # of descriptions of tensors; their data lies in backend buffers


class InitParams(Structure):
    """struct ggml_init_params"""

    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


BASE = {
    "ggml_version": (c_char_p,),
    "ggml_init": (c_void_p, InitParams),
    "ggml_new_tensor_2d": (c_void_p, c_void_p, c_int, c_int64, c_int64),
    "ggml_mul_mat": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_new_graph": (c_void_p, c_void_p),
    "ggml_build_forward_expand": (None, c_void_p, c_void_p),
    "ggml_backend_alloc_ctx_tensors": (c_void_p, c_void_p, c_void_p),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, c_void_p, c_void_p),
    "ggml_backend_buft_name": (c_char_p, c_void_p),
    "ggml_backend_reg_dev_get": (c_void_p, c_void_p, c_size_t),
    "ggml_backend_reg_get_proc_address": (c_void_p, c_void_p, c_char_p),
    "ggml_backend_tensor_set": (None, c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_backend_tensor_get": (None, c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_backend_graph_compute": (c_int, c_void_p, c_void_p),
}
CPU = {
    "ggml_backend_cpu_init": (c_void_p,),
    "ggml_backend_cpu_reg": (c_void_p,),
    "ggml_backend_cpu_set_n_threads": (None, c_void_p, c_int),
}


class Ggml:
    """The library, and its CPU backend with one thread."""

    def __init__(self, folder: Path) -> None:
        for name, declared in (("libggml-base.so", BASE), ("libggml-cpu.so", CPU)):
            library = ctypes.CDLL(str(next(iter(sorted(folder.rglob(name))), folder / name)), mode=ctypes.RTLD_GLOBAL)
            for function, (result, *arguments) in declared.items():
                entry = getattr(library, function)
                entry.restype, entry.argtypes = result, arguments
                setattr(self, function, entry)
        self.backend = self.ggml_backend_cpu_init()
        self.ggml_backend_cpu_set_n_threads(self.backend, 1)

    @property
    def version(self) -> str:
        return str(self.ggml_version().decode())

    def context(self) -> int:
        return int(self.ggml_init(InitParams(CONTEXT_BYTES, None, True)))

    def repacking(self) -> int:
        """The buffer type whose weights are repacked.

        Raises:
            RuntimeError: this build has none.
        """
        registry = self.ggml_backend_cpu_reg()
        found = self.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        types = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(found)(self.ggml_backend_reg_dev_get(registry, 0))
        for kind in iter_until_null(types):
            if self.ggml_backend_buft_name(kind).decode() == REPACKED:
                return kind
        raise RuntimeError(f"this build of ggml has no buffer type {REPACKED}")


def iter_until_null(pointers: ctypes._Pointer[c_void_p]) -> list[int]:
    found: list[int] = []
    while (pointer := pointers[len(found)]) is not None:
        found.append(pointer)
    return found


class Product:
    """y [rows, n] = x [rows, k] W, operands in ggml's own memory as they would be within a model."""

    def __init__(self, ggml: Ggml, blocks: np.ndarray, k: int, x: np.ndarray) -> None:
        """blocks: uint8 [n, k / 32, 18], a float16 scale and 32 codes each, as `quantize` gives them."""
        self.ggml, rows, n = ggml, len(x), len(blocks)
        weights, graph_context = ggml.context(), ggml.context()
        w = ggml.ggml_new_tensor_2d(weights, Q4_0, k, n)
        ggml.ggml_backend_alloc_ctx_tensors_from_buft(weights, ggml.repacking())
        ggml.ggml_backend_tensor_set(w, blocks.ctypes.data, 0, blocks.nbytes)
        given = ggml.ggml_new_tensor_2d(graph_context, F32, k, rows)
        self.result = ggml.ggml_mul_mat(graph_context, w, given)
        self.graph = ggml.ggml_new_graph(graph_context)
        ggml.ggml_build_forward_expand(self.graph, self.result)
        ggml.ggml_backend_alloc_ctx_tensors(graph_context, ggml.backend)
        ggml.ggml_backend_tensor_set(given, x.ctypes.data, 0, x.nbytes)
        self.shape = (rows, n)

    def __call__(self) -> None:
        if self.ggml.ggml_backend_graph_compute(self.ggml.backend, self.graph) != 0:
            raise RuntimeError("ggml could not compute the product")

    def y(self) -> np.ndarray:
        out = np.empty(self.shape, np.float32)
        self.ggml.ggml_backend_tensor_get(self.result, out.ctypes.data, 0, out.nbytes)
        return out


def quantize(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q4_0 of W [k, n]: blocks uint8 [n, k / 32, 18], and what they stand for, float32 [k, n]."""
    k, n = weight.shape
    grouped = weight.T.reshape(n, k // BLOCK, BLOCK)
    largest = np.take_along_axis(grouped, np.abs(grouped).argmax(-1)[..., None], -1)
    scale = (largest / -8).astype(np.float16)
    divisor = np.where(scale == 0, 1, scale).astype(np.float32)
    codes = np.clip(np.rint(grouped / divisor) + 8, 0, 15).astype(np.uint8)
    nibbles = codes[..., : BLOCK // 2] | codes[..., BLOCK // 2 :] << 4
    stands_for = (codes.astype(np.float32) - 8) * scale.astype(np.float32)
    return np.concatenate([scale.view(np.uint8), nibbles], -1), stands_for.reshape(n, k).T
