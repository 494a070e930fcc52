# SPDX-License-Identifier: Apache-2.0
"""Seeded random inputs for a model without data, of shapes that the user completes with ``--shape``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefold.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgefold.interface import ModelInterface, Port

Shapes = dict[str, tuple[int, ...]]


def parse_shapes(options: Iterable[str]) -> Shapes:
    """Parses ``--shape`` values: ``input_ids=1x128``.

    Raises:
        UsageError: a value of another form, or one input named twice.
    """
    shapes: Shapes = {}
    for option in options:
        name, _, sizes = option.rpartition("=")
        if not name or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
            raise UsageError(f"--shape {option}: expected INPUT=AxBxC, for example --shape input_ids=1x128")
        if name in shapes:
            raise UsageError(f"--shape {option}: the input '{name}' was already given a shape")
        shapes[name] = tuple(int(size) for size in sizes.split("x"))
    return shapes


def complete_shapes(model: ModelInterface, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    """The full shape of every input.

    Raises:
        UsageError: a shape for an unknown input, one that contradicts the model, or a dynamic dimension left open;
            the last lists all of them and the ``--shape`` that would do.
    """
    names = [port.name for port in model.inputs]
    for name in shapes:
        if name not in names:
            raise UsageError(f"--shape {name}=...: the model has no such input; its inputs are {', '.join(names)}")
    unset = [port for port in model.inputs if port.name not in shapes and not _is_static(port)]
    if unset:
        listed = "; ".join(f"{port.name} [{_dimensions(port)}]" for port in unset)
        example = " ".join(f"--shape {port.name}={'x'.join(_example(port))}" for port in unset)
        raise UsageError(f"the model has dynamic dimensions without a size: {listed}; set them, for example: {example}")
    return {port.name: _checked(port, shapes.get(port.name)) for port in model.inputs}


def random_feeds(
    model: ModelInterface, shapes: Mapping[str, tuple[int, ...]], seed: int = 0
) -> dict[str, np.ndarray[Any, Any]]:
    """One random array for every input.

    Floats are standard normal, bytes uniform over their range, wider integers 0 or 1 (valid as token ids and masks
    alike), booleans fair coins.

    Raises:
        UsageError: see `complete_shapes`.
        ModelError: an input that is no tensor of numbers.
    """
    generator = np.random.default_rng(seed)
    return {
        port.name: _random(generator, port, shape)
        for port, shape in zip(model.inputs, complete_shapes(model, shapes).values(), strict=True)
    }


def _random(generator: np.random.Generator, port: Port, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    dtype = port.dtype
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    if dtype.kind in "iub":
        limits = np.iinfo(dtype) if dtype.itemsize == 1 and dtype.kind != "b" else None
        low, high = (int(limits.min), int(limits.max)) if limits else (0, 1)
        return generator.integers(low, high, shape, endpoint=True).astype(dtype)
    raise ModelError(f"the input '{port.name}' is of type {port.kind}; random data are numbers only: give -d TASK")


def _is_static(port: Port) -> bool:
    return all(isinstance(size, int) for size in port.shape)


def _dimensions(port: Port) -> str:
    return ", ".join("?" if size is None else str(size) for size in port.shape)


def _example(port: Port) -> list[str]:
    return [str(size) if isinstance(size, int) else "1" if axis == 0 else "128" for axis, size in enumerate(port.shape)]


def _checked(port: Port, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if given is None:
        return tuple(size for size in port.shape if isinstance(size, int))
    fits = len(given) == len(port.shape) and all(
        not isinstance(size, int) or size == wanted for size, wanted in zip(port.shape, given, strict=True)
    )
    if not fits:
        shape = "x".join(map(str, given))
        raise UsageError(f"--shape {port.name}={shape}: the model declares [{_dimensions(port)}]")
    return given
