# SPDX-License-Identifier: Apache-2.0
"""Statistics of a model's activations over calibration data: the only thing passes see of ONNX Runtime.

Requested tensors are made outputs of the model for the time of a session, batches stream through it, and each batch is
reduced at once to second moments or histograms; no activation outlives its batch. Rows at positions that only fill
samples up are left out: nothing reads what a layer gives there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.calibration_batches import Batches, Feeds, every_second
from edgefold.errors import ModelError
from edgefold.exposed_tensors import Exposed
from edgefold.passes._halves import Halves
from edgefold.passes._layer_inputs import Inputs, Rows, Targets
from edgefold.passes._moments import Moments
from edgefold.passes._ranges import Range
from edgefold.routed_tokens import SameTokens
from edgefold.segments import MAX_REMEMBERED, Segments
from edgefold.session import make_session, run

Array = np.ndarray[Any, Any]

MAX_ROWS = 8192
"""Rows of one layer that enter its moments; more are sampled. Enough for a few thousand inputs with damping."""

MAX_BYTES = 256 << 20
"""Activations of one batch held at once; requests beyond it take another pass over the data."""


class Calibration:
    """Second moments and ranges of a model's tensors over a task's calibration data.

    Args:
        model: a model in memory, serialized, or a file. A model in memory is read at each call, never changed.
        feeds: makes a fresh iterator over the calibration batches.
        seed: of the choice of rows.
        threads: of ONNX Runtime; 0 leaves the choice to it.
        max_rows: rows that enter the moments of one request, spread over all batches.
        remembers: whether values of the model that was given are held for requests that come again; see `Segments`.
    """

    def __init__(
        self,
        model: ir.Model | bytes | str | Path,
        feeds: Callable[[], Iterable[Feeds]],
        *,
        seed: int = 0,
        threads: int = 0,
        max_rows: int = MAX_ROWS,
        remembers: bool = False,
    ) -> None:
        self._model = _as_model(model)
        self._batches = Batches(feeds, seed)
        self._threads = threads
        self._max_rows = max_rows
        self._sizes: dict[str, int] = {}
        held = MAX_REMEMBERED if remembers else 0
        self._segments = Segments(self._model, self._batches.read, threads=threads, remembers=held)

    def through(
        self, model: ir.Model, *, max_rows: int | None = None, half: int | None = None, remembers: bool = False
    ) -> Calibration:
        """The same batches through another model, whose weights may be exchanged between calls.

        Args:
            model: has the inputs of this one.
            max_rows: rows that enter the moments of one request; None for as many as here.
            half: 0 for the even batches only, 1 for the odd ones.
            remembers: whether values are held for requests that come again.
        """
        rows = self._max_rows if max_rows is None else max_rows
        feeds = self._batches.read if half is None else functools.partial(every_second, self._batches.read, half)
        return Calibration(
            model, feeds, seed=self._batches.seed, threads=self._threads, max_rows=rows, remembers=remembers
        )

    def moments(self, requests: Sequence[Inputs]) -> dict[Inputs, Moments]:
        """Second moments of layer inputs; equal requests are computed once.

        Raises:
            ModelError: a tensor that cannot be observed, or activations that are not finite.
        """
        return {request: whole for request, [whole] in self._moments(list(dict.fromkeys(requests)), 1)}

    def halves(self, requests: Sequence[Inputs]) -> dict[Inputs, Halves]:
        """As `moments`, over the even and over the odd batches."""
        return {request: Halves(*parts) for request, parts in self._moments(list(dict.fromkeys(requests)), 2)}

    def regressions(self, requests: Mapping[Inputs, Sequence[Targets]], original: Calibration) -> dict[Inputs, Halves]:
        """Moments with targets: inputs from this model, targets from `original`, side by side along N.

        Inside experts they are of the tokens that both models send there. All tensors of one call are held at once for
        the time of a batch. Calls that go down the graph compute each node once; see `edgefold.segments`.

        Args:
            requests: for each layer input of this model, the tensors of the original that its layers should give.
            original: of the unchanged model, on the same batches.

        Raises:
            ModelError: a tensor that cannot be observed, or activations that are not finite.
        """
        share = self._batches.share(self._max_rows)
        terms = [target.less for targets in requests.values() for target in targets if target.less]
        names = list(dict.fromkeys([*(request.tensor for request in requests), *terms]))
        wanted = list(dict.fromkeys(target.tensor for targets in requests.values() for target in targets))
        found: dict[Inputs, Halves] = {}
        tokens = SameTokens(self._model, original._model)
        mine, others = tokens.needed(names, wanted)
        pairs = zip(self._tensors(names + mine), original._tensors(wanted + others), strict=True)
        for number, (all_values, all_outputs) in enumerate(pairs):
            for request, targets in requests.items():
                needed = {request.tensor, *(one.less for one in targets if one.less)}
                if not (needed <= all_values.keys() and {one.tensor for one in targets} <= all_outputs.keys()):
                    continue  # of a body that did not run
                with _named(request.tensor):
                    values, outputs = tokens.shared(request.tensor, all_values, targets, all_outputs)
                    rows = request.count(values[request.tensor].shape)
                    picked = self._batches.pick(rows, share, number)
                    x = request.gather(values[request.tensor], picked)
                    parts = [
                        one.gather(outputs[one.tensor], picked, rows, values[one.less] if one.less else None)
                        for one in targets
                    ]
                    y = np.concatenate(parts, axis=2)
                    if request not in found:
                        found[request] = Halves(*(Moments.zeros(len(x), x.shape[2], y.shape[2]) for _ in range(2)))
                    (found[request].odd if number % 2 else found[request].even).add(x, y)
        return found

    def ranges(self, tensors: Sequence[str]) -> dict[str, Range]:
        """Range and histogram of each tensor.

        Raises:
            ModelError: a tensor that cannot be observed, or activations that are not finite.
        """
        found = {name: Range() for name in tensors}
        for name, value in self._values(list(found)):
            with _named(name):
                found[name].add(value)
        return found

    def peaks(self, requests: Sequence[Rows]) -> dict[Rows, Array]:
        """The largest magnitude of each element of layer inputs, float32 [K]; raises ModelError as `ranges`."""
        found: dict[Rows, Array] = {}
        for name, value in self._values(list(dict.fromkeys(one.tensor for one in requests))):
            for request in {one for one in requests if one.tensor == name}:
                with _named(name):
                    found[request] = np.maximum(found.get(request, 0), request.peaks(value))
        return found

    def rows(self, requests: Sequence[Inputs], limit: int) -> dict[Inputs, Array]:
        """A sample of layer inputs, spread over all batches, float32 [P, rows, K] with about `limit` rows.

        Raises:
            ModelError: a tensor that cannot be observed, or activations that are not finite.
        """
        share = self._batches.share(limit)
        parts: dict[Inputs, list[Array]] = {request: [] for request in requests}
        for names in self._portions(list(dict.fromkeys(request.tensor for request in parts))):
            portion = [request for request in parts if request.tensor in names]
            for number, values in enumerate(self._tensors(names)):
                for request in (one for one in portion if one.tensor in values):
                    with _named(request.tensor):
                        value = values[request.tensor]
                        x = request.gather(value, self._batches.pick(request.count(value.shape), share, number))
                        parts[request].append(_finite(x.astype(np.float32)))
        return {request: np.concatenate(found, axis=1) for request, found in parts.items() if found}

    def _tensors(self, names: list[str]) -> Iterator[dict[str, Array]]:
        """Tensors of one batch after the other, without those of bodies that do not run for it."""
        of_main_graph = ir.convenience.create_value_mapping(self._model.graph, include_subgraphs=False)
        if all(name in of_main_graph for name in names):
            yield from self._segments.values(names)
            return
        with self._observed(names) as values_of:
            for feeds in self._batches.read():
                yield values_of(feeds)

    def _values(self, names: list[str]) -> Iterator[tuple[str, Array]]:
        """Each tensor of each batch, portion by portion of what fits in memory."""
        for portion in self._portions(names):
            for values in self._tensors(portion):
                yield from values.items()

    def _moments(self, requests: Sequence[Inputs], parts: int) -> Iterator[tuple[Inputs, list[Moments]]]:
        """Moments of each request over every so many-th batch, portion by portion of what fits in memory."""
        share = self._batches.share(self._max_rows)
        for names in self._portions(list(dict.fromkeys(request.tensor for request in requests))):
            portion = [request for request in requests if request.tensor in names]
            found: dict[Inputs, list[Moments]] = {}
            with self._observed(names) as values_of:
                for number, feeds in enumerate(self._batches.read()):
                    values = values_of(feeds)
                    for request in (one for one in portion if one.tensor in values):
                        with _named(request.tensor):
                            rows = request.count(values[request.tensor].shape)
                            x = request.gather(values[request.tensor], self._batches.pick(rows, share, number))
                            if request not in found:
                                found[request] = [Moments.zeros(len(x), x.shape[2]) for _ in range(parts)]
                            found[request][number % parts].add(x)
            yield from found.items()

    def _portions(self, names: list[str]) -> Iterator[list[str]]:
        """Splits tensors so that those of one portion stay below `MAX_BYTES` for the first batch."""
        portion: list[str] = []
        held = 0
        for name, size in (self._measure(names) if len(names) > 1 else dict.fromkeys(names, 0)).items():
            if portion and held + size > MAX_BYTES:
                yield portion
                portion, held = [], 0
            portion.append(name)
            held += size
        if portion:
            yield portion

    def _measure(self, names: list[str]) -> dict[str, int]:
        """Bytes of each tensor in the first batch, of which ONNX Runtime reports the shapes; nothing without data."""
        unknown = [name for name in names if name not in self._sizes]
        first = next(iter(self._batches.read()), None)
        if first is None:
            return {}
        if unknown:
            with self._observed(unknown, as_shapes=True) as shapes_of:
                shapes = shapes_of(first)
            self._sizes.update((name, 4 * int(np.prod(shapes[name]))) for name in unknown)
        return {name: self._sizes[name] for name in names}

    @contextmanager
    def _observed(self, names: list[str], *, as_shapes: bool = False) -> Iterator[Callable[[Feeds], dict[str, Array]]]:
        """A function from feeds to the values of tensors (or their shapes), while the block lasts."""
        if not names:
            yield lambda feeds: {}
            return
        try:
            exposed = Exposed(self._model, names, as_shapes=as_shapes)
        except ModelError as error:
            raise ModelError(f"calibration: {error}") from None
        session = make_session(exposed.model, threads=self._threads)
        inputs = {one.name for one in session.get_inputs()}

        def values_of(feeds: Feeds) -> dict[str, Array]:
            used = {name: value for name, value in feeds.items() if name in inputs}
            return exposed.read(run(session, exposed.outputs, used))

        yield values_of


def _finite(values: Array) -> Array:
    if not np.isfinite(values).all():
        raise ValueError("calibration gave NaN or infinite activations")
    return values


@contextmanager
def _named(tensor: str) -> Iterator[None]:
    """Turns a refusal of the values into one line that names their tensor."""
    try:
        yield
    except ValueError as error:
        raise ModelError(f"calibration: tensor '{tensor}': {error}") from error


def _as_model(model: ir.Model | bytes | str | Path) -> ir.Model:
    if isinstance(model, ir.Model):
        return model
    if isinstance(model, bytes):
        import onnx

        return ir.from_proto(onnx.load_model_from_string(model))
    return ir.load(model)
