# SPDX-License-Identifier: Apache-2.0
"""Models whose key/value cache holds int8 codes, run as the float models that they were.

Tasks, random data and comparisons with the original give and take the cache as floats; a session opened here takes
these in place of codes and scales, and gives floats back. `native` is the session itself, for callers that have codes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefold.passes.base import CACHES

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime as ort

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class CodedCache:
    """Names of one cache: the inputs of a step and the outputs that are the next step's inputs."""

    past: str
    past_scales: str
    present: str
    present_scales: str


def coded_caches(metadata: Mapping[str, str]) -> tuple[CodedCache, ...]:
    """The caches that a model's metadata list."""
    return tuple(CodedCache(**names) for names in json.loads(metadata.get(CACHES, "[]")))


def float_ports(values: Iterable[ir.Value], caches: Sequence[CodedCache]) -> list[ir.Value]:
    """Inputs or outputs of a model as they were with a float cache: without scales, and floats for codes."""
    import onnx_ir as ir

    scales = {name for one in caches for name in (one.past_scales, one.present_scales)}
    codes = {name for one in caches for name in (one.past, one.present)}
    kind = ir.TensorType(ir.DataType.FLOAT)
    return [
        ir.Value(name=value.name, type=kind, shape=value.shape) if value.name in codes else value
        for value in values
        if value.name not in scales
    ]


def quantize_rows(x: Array) -> tuple[Array, Array]:
    """Codes and scales of rows, as QuantizeRows gives them: int8 of x's shape, float32 with 1 as the last size."""
    largest = np.abs(x).max(-1, keepdims=True, initial=0)
    scales = np.where(largest > 1e-30, largest / np.float32(127), 0).astype(np.float32)
    divisor = np.where(scales > 0, scales, np.float32(np.inf))
    return np.clip(np.rint(x / divisor), -127, 127).astype(np.int8), scales


@dataclasses.dataclass(frozen=True)
class FloatPort:
    """What ``get_inputs`` and ``get_outputs`` of a session give, for a tensor of floats."""

    name: str
    shape: Sequence[int | str | None]
    type: str = "tensor(float)"


class FloatCaches:
    """A session with the interface of the model before its caches held codes.

    Args:
        native: the session of the model as it is.
        caches: its caches.
    """

    def __init__(self, native: ort.InferenceSession, caches: Sequence[CodedCache]) -> None:
        self.native = native
        self._by_past = {one.past: one for one in caches}
        self._by_present = {one.present: one for one in caches}
        self._scales = {name for one in caches for name in (one.past_scales, one.present_scales)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)

    def get_inputs(self) -> list[Any]:
        return self._ports(self.native.get_inputs(), self._by_past)

    def get_outputs(self) -> list[Any]:
        return self._ports(self.native.get_outputs(), self._by_present)

    def _ports(self, ports: Iterable[Any], codes: Mapping[str, CodedCache]) -> list[Any]:
        kept = [one for one in ports if one.name not in self._scales]
        return [FloatPort(one.name, one.shape) if one.name in codes else one for one in kept]

    def native_feeds(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The feeds with the floats of every past as codes and scales."""
        made = dict(feeds)
        for name, cache in self._by_past.items():
            if name in made and made[name].dtype == np.float32:
                made[name], made[cache.past_scales] = quantize_rows(made[name])
        return made

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array], *options: Any) -> list[Array]:
        """As ``InferenceSession.run``; a present comes as floats."""
        names = [one.name for one in self.get_outputs()] if outputs is None else list(outputs)
        present = [self._by_present[name].present_scales for name in names if name in self._by_present]
        wanted = list(dict.fromkeys([*names, *present]))
        values = dict(zip(wanted, self.native.run(wanted, self.native_feeds(feeds), *options), strict=True))
        for name in names:
            if name in self._by_present:
                values[name] = values[name] * values[self._by_present[name].present_scales]
        return [values[name] for name in names]


def native_run(session: ort.InferenceSession) -> Callable[[Sequence[str] | None, Mapping[str, Array]], list[Array]]:
    """``run`` of a session's model as it is, with codes where it holds them; floats that are fed become codes."""
    if not isinstance(session, FloatCaches):
        return lambda outputs, feeds: list(session.run(outputs, dict(feeds)))
    return lambda outputs, feeds: list(session.native.run(outputs, session.native_feeds(feeds)))


def native_call(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> Callable[[], object]:
    """A run of a session's model as it is, for taking its time: what turns floats into codes is done before."""
    if isinstance(session, FloatCaches):
        coded, native = session.native_feeds(feeds), session.native
        return lambda: native.run(None, coded)
    plain = dict(feeds)
    return lambda: session.run(None, plain)
