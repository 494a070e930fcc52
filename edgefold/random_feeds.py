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
        if not name or not re.fullmatch(r"[1-9]\d*(x(0|[1-9]\d*))*", sizes):
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
    check_shapes({port.name: port.shape for port in model.inputs}, shapes)
    unset = [port for port in model.inputs if port.name not in shapes and not _is_static(port)]
    if unset:
        listed = "; ".join(f"{port.name} [{_dimensions(port.shape)}]" for port in unset)
        example = " ".join(f"--shape {port.name}={'x'.join(_example(port))}" for port in unset)
        raise UsageError(f"the model has dynamic dimensions without a size: {listed}; set them, for example: {example}")
    fixed = {port.name: tuple(size for size in port.shape if isinstance(size, int)) for port in model.inputs}
    return {name: tuple(shapes.get(name, shape)) for name, shape in fixed.items()}


def check_one_source(task: object | None, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UsageError where both a task and shapes say what is fed."""
    if task is not None and shapes:
        raise UsageError("--shape and -d both say what is fed; give one (a task's key batch says how many samples)")


def check_shapes(declared: Mapping[str, Iterable[object] | None], given: Mapping[str, tuple[int, ...]]) -> None:
    """Nothing, where a model can take inputs of these shapes.

    Args:
        declared: for each input what the model says of its dimensions, numbers where they are fixed; None where even
            their count is open.
        given: shapes of some inputs.

    Raises:
        UsageError: a shape for an unknown input, or one that contradicts the model.
    """
    for name, sizes in given.items():
        if name not in declared:
            raise UsageError(f"--shape {name}=...: the model has no such input; its inputs are {', '.join(declared)}")
        dimensions = declared[name]
        if dimensions is None:
            continue
        wanted = list(dimensions)
        # Some exporters write an open dimension as 0 or -1.
        pairs = zip(wanted, sizes, strict=False)
        fixed = ((want, size) for want, size in pairs if isinstance(want, int) and want > 0)
        if len(wanted) != len(sizes) or any(want != size for want, size in fixed):
            shape = "x".join(map(str, sizes))
            why = f"the model declares [{_dimensions(wanted)}], where numbers are fixed"
            raise UsageError(f"--shape {name}={shape}: {why}")


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


def _dimensions(shape: Iterable[object]) -> str:
    # An open dimension without a name is None, or prints as such.
    return ", ".join("?" if str(size) == "None" else str(size) for size in shape)


def _example(port: Port) -> list[str]:
    return [str(size) if isinstance(size, int) else "1" if axis == 0 else "128" for axis, size in enumerate(port.shape)]
