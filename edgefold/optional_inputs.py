# SPDX-License-Identifier: Apache-2.0
"""Inputs of a model that have defaults, such as the depth at which it runs, and values that a user gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgefold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnxruntime as ort

    from edgefold.interface import Port

Values = dict[str, float]


def parse_values(options: Iterable[str]) -> Values:
    """Parses ``--input`` values: ``depth=3``.

    Raises:
        UsageError: a value of another form, or one input named twice.
    """
    values: Values = {}
    for option in options:
        name, _, text = option.rpartition("=")
        if name in values:
            raise UsageError(f"--input {option}: the input '{name}' was already given a value")
        try:
            values[name] = float(text)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"--input {option}: expected NAME=NUMBER, for example --input depth=3")
    return values


def optional_feeds(session: ort.InferenceSession, values: Mapping[str, float]) -> dict[str, np.ndarray[Any, Any]]:
    """What to feed beside a model's other inputs: each of the given inputs filled with its value.

    Raises:
        UsageError: the model has no such optional input, or its type cannot hold the value.
    """
    from edgefold.interface import ModelInterface

    ports = {port.name: port for port in ModelInterface.of(session).optional}
    feeds = {}
    for name, value in values.items():
        if name not in ports:
            there = f"its optional inputs are {', '.join(ports)}" if ports else "it has no optional input"
            raise UsageError(f"--input {name}={value:g}: the model has no such optional input; {there}")
        feeds[name] = _filled(ports[name], value)
    return feeds


def _filled(port: Port, value: float) -> np.ndarray[Any, Any]:
    filled = np.full([size if isinstance(size, int) else 1 for size in port.shape], value).astype(port.dtype)
    if port.dtype.kind in "iub" and np.any(filled != value):
        raise UsageError(f"--input {port.name}={value:g}: the model takes {port.dtype} there")
    return filled
