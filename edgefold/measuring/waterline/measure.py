# SPDX-License-Identifier: Apache-2.0
"""Runs a model and sets its nodes and blocks beside the ceilings of this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgefold.errors import UsageError
from edgefold.float_caches import native_call
from edgefold.interface import ModelInterface
from edgefold.measuring.inspect import completed_shapes
from edgefold.measuring.latency import interleave
from edgefold.measuring.svg import check_name, write
from edgefold.measuring.waterline.analysis import Waterline, analyse
from edgefold.measuring.waterline.ceilings import ceilings
from edgefold.measuring.waterline.gap import EfficiencyGap, gap_row
from edgefold.measuring.waterline.gap_picture import draw as draw_gap
from edgefold.measuring.waterline.node_times import run_nodes
from edgefold.measuring.waterline.picture import draw
from edgefold.measuring.waterline.spans import find_spans
from edgefold.random_feeds import random_feeds
from edgefold.session import make_session, run

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort

    from edgefold.files.loading import LoadedModel

Shape = tuple[int, ...]
_SECONDS = 1.0


def waterline(loaded: LoadedModel, shapes: Mapping[str, Shape], picture: str | None = None) -> Waterline:
    """The waterline of a model on random inputs, one thread.

    Args:
        loaded: the model.
        shapes: of inputs with dynamic dimensions; a first one is 1 where nothing is given.
        picture: SVG file to write.

    Raises:
        UsageError: a dynamic dimension without a size, or `picture` with another ending than .svg.
        ModelError: ONNX Runtime cannot run the model.
    """
    check_name(picture)
    session = make_session(loaded.path, threads=1)
    interface = ModelInterface.of(session)
    feeds = random_feeds(interface, completed_shapes(loaded.model, shapes)[0])
    fed = {name: array.shape for name, array in feeds.items()}
    ran = run_nodes(loaded.model, feeds, _SECONDS)
    found = analyse(str(loaded.path), fed, ran, find_spans(loaded.model, fed, ran), ceilings())
    found = dataclasses.replace(found, run_us=_run_us(session, feeds))
    if picture is not None:
        write(picture, draw(found))
    return found


def _run_us(session: ort.InferenceSession, feeds: Mapping[str, np.ndarray[Any, Any]]) -> float:
    run(session, None, feeds)  # whose errors are one line
    return 1e3 * interleave({"run": native_call(session, feeds)}, _SECONDS / 2)["run"].median


def efficiency_gap(
    models: Sequence[LoadedModel], shapes: Mapping[str, Shape], picture: str | None = None
) -> EfficiencyGap:
    """How far several models stand from what this machine could do, each on random inputs, one thread.

    Args:
        models: the models; a row is named after the folder and the file.
        shapes: of inputs with dynamic dimensions, each for the models that have such an input.
        picture: SVG file to write.

    Raises:
        UsageError: as `waterline` does, and for a shape that no model has an input for.
        ModelError: ONNX Runtime cannot run one of them.
    """
    check_name(picture)
    inputs = {loaded.path: {value.name for value in loaded.model.graph.inputs} for loaded in models}
    for name in shapes:
        if not any(name in names for names in inputs.values()):
            raise UsageError(f"--shape {name}=...: none of the models has such an input")
    rows = []
    for loaded in models:
        its = {name: shape for name, shape in shapes.items() if name in inputs[loaded.path]}
        rows.append(gap_row(loaded.path.parent.name, loaded.path.stem, waterline(loaded, its)))
    found = EfficiencyGap(ceilings(), tuple(rows))
    if picture is not None:
        write(picture, draw_gap(found))
    return found
