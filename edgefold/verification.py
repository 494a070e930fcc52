# SPDX-License-Identifier: Apache-2.0
"""Checks between steps: is the graph well formed, is its interface unchanged, and how far are its outputs?"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgefold.errors import VerificationError
from edgefold.files.external import is_large, places, weight_bytes, weight_values
from edgefold.files.serialization import ELSEWHERE, serialize
from edgefold.files.unlisted import put_back, set_apart
from edgefold.float_caches import coded_caches, float_ports
from edgefold.passes import Effect, Pass
from edgefold.passes.base import OPTION
from edgefold.session import LITTLE_MEMORY, make_session

MOST_REASSOCIATED = 5e-2  # of the largest output: in half precision, the sum of all rounding errors would allow any
CHECKABLE_BYTES = 16 << 20  # above this the checker reads a file: in memory it would hold the weights three times


@dataclasses.dataclass(frozen=True)
class Difference:
    """How two runs on the same inputs differ, over all floating-point outputs together.

    Attributes:
        relative: largest difference over the largest magnitude of the reference output.
        sqnr_db: reference energy over error energy, decibels; infinite when equal.
        agreement: share of equal elements of the integer outputs; 1 when there are none.
    """

    relative: float
    sqnr_db: float
    agreement: float

    def to_json(self) -> dict[str, Any]:
        sqnr = self.sqnr_db if np.isfinite(self.sqnr_db) else None
        return {"relative": self.relative, "sqnr_db": sqnr, "agreement": self.agreement}


def run_model(
    model: ir.Model, feeds: Mapping[str, np.ndarray], *, library: bool = True, optimize: bool = True
) -> dict[str, np.ndarray]:
    """Outputs of the model by name, from one run in ONNX Runtime."""
    session = make_session(model, library=library, optimize=optimize, config=LITTLE_MEMORY)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def compare_outputs(reference: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> Difference:
    """Difference of two sets of outputs with the same names.

    Raises:
        VerificationError: an output is missing, has another shape, or is not finite where the reference is.
    """
    relative, signal, noise, equal, counted = 0.0, 0.0, 0.0, 0, 0
    for name, expected in reference.items():
        actual = other.get(name)
        if actual is None or actual.shape != expected.shape:
            raise VerificationError(f"output `{name}`: shape {expected.shape} became {getattr(actual, 'shape', None)}")
        if not np.issubdtype(expected.dtype, np.floating):
            equal += int(np.sum(expected == actual))
            counted += expected.size
            continue
        finite = np.isfinite(expected)
        if not np.isfinite(actual[finite]).all():
            raise VerificationError(f"output `{name}`: finite values became NaN or infinite")
        wanted = expected[finite].astype(np.float64)
        error = actual[finite].astype(np.float64) - wanted
        if wanted.size:
            relative = max(relative, float(np.abs(error).max()) / max(float(np.abs(wanted).max()), 1e-30))
        signal += float(wanted @ wanted)
        noise += float(error @ error)
    sqnr = float("inf") if noise == 0 else 10 * np.log10(max(signal, 1e-300) / noise)
    return Difference(relative, float(sqnr), equal / counted if counted else 1.0)


def check_numerics(before: ir.Model, after: ir.Model, step: Pass, feeds: Mapping[str, np.ndarray]) -> Difference:
    """Run both models on the same inputs and hold the difference against the step's effect.

    EXACT must be bit-equal with the runtime's own optimizations off. REASSOCIATED may differ by 8 epsilon for each
    node on the way, relative to the output's largest magnitude, and by a twentieth of it at most: every node adds a
    rounding error of a few epsilon, which later nodes pass on. LOSSY is measured, not judged; that is for the metric.

    Raises:
        VerificationError: names the pass, the measured and the allowed difference.
    """
    optimize = step.effect is not Effect.EXACT
    library = step.verified_by == "kernels"
    difference = compare_outputs(
        run_model(before, feeds, library=library, optimize=optimize),
        run_model(after, feeds, library=library, optimize=optimize),
    )
    if step.effect is Effect.LOSSY:
        return difference
    nodes = sum(1 for _ in before.graph.all_nodes())
    allowed = 0.0 if step.effect is Effect.EXACT else min(8 * _epsilon(before) * max(nodes, 8), MOST_REASSOCIATED)
    if difference.relative > allowed:
        raise VerificationError(
            f"{step.name}: outputs differ by {difference.relative:.2e} of their largest magnitude, "
            f"{step.effect.value} allows {allowed:.2e}"
        )
    return difference


def _epsilon(model: ir.Model) -> float:
    """Of the type in which a model computes: half precision where it has such weights."""
    weights = (value.const_value for value in model.graph.initializers.values())
    half = any(weight is not None and weight.dtype == ir.DataType.FLOAT16 for weight in weights)
    return float(np.finfo(np.float16 if half else np.float32).eps)


def check_structure(
    before: ir.Model, after: ir.Model, step_name: str, options: Sequence[str] = (), caches: Sequence[str] = ()
) -> None:
    """The ONNX checker passes and the graph's inputs and outputs are those of before.

    Args:
        before: the model that the step was given.
        after: what it made of it.
        step_name: for messages.
        options: names of the optional inputs that the step says it added; callers that know nothing of them go on as
            they did. Those of earlier steps must still be there.
        caches: names of the inputs that the step says it made codes of a cache; with floats in their place the
            interface must be that of before.

    Raises:
        VerificationError: names the step and what changed.
    """
    for kind, old, new in (
        ("inputs", _given(before), _given(after)),
        ("outputs", _as_floats(before.graph.outputs, before), _as_floats(after.graph.outputs, after)),
    ):
        if len(old) != len(new) or not all(map(_same_port, old, new)):
            raise VerificationError(f"{step_name}: the model's {kind} changed from {_ports(old)} to {_ports(new)}")
    old_caches, new_caches = ({one.past for one in coded_caches(model.metadata_props)} for model in (before, after))
    if new_caches != {*old_caches, *caches}:
        there = ", ".join(sorted(new_caches)) or "none"
        raise VerificationError(
            f"{step_name}: the model's caches of codes should be {', '.join(sorted({*old_caches, *caches})) or 'none'} "
            f"and are {there}"
        )
    wanted = {*_options(before), *options}
    if _options(after) != wanted:
        there = ", ".join(sorted(_options(after))) or "none"
        raise VerificationError(
            f"{step_name}: the model's optional inputs should be {', '.join(sorted(wanted)) or 'none'} and are {there}"
        )
    try:
        check_onnx(after)
    except onnx.checker.ValidationError as error:
        raise VerificationError(f"{step_name}: invalid ONNX: {' '.join(str(error).split())[:400]}") from error


def check_onnx(model: ir.Model) -> None:
    """onnx.checker on the model, through a file where it is too large for one message.

    Outputs of unknown rank, which the checker refuses and ONNX Runtime runs, are shown to it as scalars, and ONNX
    Runtime's own operators in the standard domain as ones of a domain that it does not know.

    Raises:
        onnx.checker.ValidationError: as the checker.
    """
    unknown = [value for value in model.graph.outputs if value.shape is None and isinstance(value.type, ir.TensorType)]
    for value in unknown:
        value.shape = ir.Shape([])
    set_apart(model)
    try:
        _check_onnx(model)
    finally:
        put_back(model)
        for value in unknown:
            value.shape = None


def _check_onnx(model: ir.Model) -> None:
    if weight_bytes(model) < CHECKABLE_BYTES:
        onnx.checker.check_model(serialize(model))  # with weights inside that lie in a file beside the original
        return
    large = [value.const_value for value in weight_values(model) if value.const_value and is_large(value.const_value)]
    layout, size = places(large)
    with tempfile.TemporaryDirectory(prefix="edgefold-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(serialize(model, layout))
        with path.with_name(ELSEWHERE).open("wb") as weights:
            weights.truncate(size)  # the checker wants the file to be there, and reads none of it
        onnx.checker.check_model(str(path))


def _given(model: ir.Model) -> list[ir.Value]:
    """Inputs without those that have defaults: options, and the weights that IR 3 lists among the inputs."""
    return _as_floats([value for value in model.graph.inputs if value.name not in model.graph.initializers], model)


def _as_floats(values: Iterable[ir.Value], model: ir.Model) -> list[ir.Value]:
    """Inputs or outputs, those of a cache of codes as the floats that they were."""
    return float_ports(list(values), coded_caches(model.metadata_props))


def _options(model: ir.Model) -> set[str]:
    """The optional inputs that passes added; other inputs with defaults are weights, which passes may fold."""
    return {str(value.name) for value in model.graph.inputs if OPTION in value.metadata_props}


def _same_port(old: ir.Value, new: ir.Value) -> bool:
    """Equal name and type, and equal sizes where both are known: inference may find out a size, never change one."""
    if old.name != new.name or (old.dtype is not None and old.dtype != new.dtype):
        return False
    if old.shape is None or new.shape is None:
        return True
    known = [(a, b) for a, b in zip(old.shape, new.shape, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(old.shape) == len(new.shape) and all(a == b for a, b in known)


def _ports(values: Sequence[ir.Value]) -> str:
    return ", ".join(f"{value.name} {value.dtype} {value.shape}" for value in values)
