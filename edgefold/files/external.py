# SPDX-License-Identifier: Apache-2.0
"""Lay the weights of a model out in one external data file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO, TypeAlias

import onnx_ir as ir

from edgefold.errors import ModelError

EXTERNAL_ABOVE = 64 * 2**20
"""Bytes of weights above which they are written beside the model unless the user says otherwise."""

ALIGNMENT = 64
"""Each external tensor starts at a multiple of this: a cache line, and the widest vector register."""

_SMALLEST = 1024  # shapes, axes and scales stay inside, where shape inference finds them

Layout: TypeAlias = Mapping[int, tuple[int, int]]
"""``id`` of a tensor -> (offset, length) in the data file, in bytes."""


def is_large(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor is worth a place of its own, outside the graph's message; strings have none."""
    return tensor.dtype != ir.DataType.STRING and tensor.nbytes >= _SMALLEST


def weight_values(model: ir.Model) -> Iterator[ir.Value]:
    """All initializers that have a value, in the graph and its subgraphs."""
    for graph in model.graphs():
        yield from (value for value in graph.initializers.values() if value.const_value is not None)


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers; a tensor object that several of them hold counts once."""
    tensors = {id(value.const_value): value.const_value for value in weight_values(model)}
    return sum(tensor.nbytes for tensor in tensors.values() if tensor is not None)


def places(tensors: Iterable[ir.TensorProtocol]) -> tuple[dict[int, tuple[int, int]], int]:
    """Where tensors would lie in a file one behind the other, and how many bytes they have; nothing is written."""
    layout: dict[int, tuple[int, int]] = {}
    position = 0
    for tensor in tensors:
        if id(tensor) not in layout:
            layout[id(tensor)] = (position, tensor.nbytes)
            position += tensor.nbytes
    return layout, position


def write_tensors(model: ir.Model, file: BinaryIO) -> dict[int, tuple[int, int]]:
    """Write the weights, one at a time, each aligned; a tensor object used twice is written once.

    Returns:
        Where each tensor lies.
    """
    layout: dict[int, tuple[int, int]] = {}
    position = 0
    for value in weight_values(model):
        tensor = value.const_value
        if tensor is None or id(tensor) in layout or not is_large(tensor):
            continue
        padding = -position % ALIGNMENT
        file.write(bytes(padding))
        if isinstance(tensor, ir.ExternalTensor):
            tensor.tofile(file)  # from file to file, inside the kernel where it can
        else:  # not tofile: numpy's forgets the reason when the disk is full
            file.write(tensor.tobytes())
        file.flush()
        layout[id(tensor)] = (position + padding, tensor.nbytes)
        position += padding + tensor.nbytes
        if file.tell() != position:
            raise ModelError(f"initializer {value.name!r} wrote other than its {tensor.nbytes} bytes")
    return layout
