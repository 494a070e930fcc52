# SPDX-License-Identifier: Apache-2.0
"""How far two models are apart on the same inputs: every output, and every layer whose output tensor both have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from edgefold.errors import UsageError
from edgefold.files.loading import LoadedModel
from edgefold.interface import ModelInterface
from edgefold.measuring.text_table import text_table
from edgefold.random_feeds import check_one_source, random_feeds
from edgefold.scoring.metrics import row_cosine
from edgefold.session import make_session, run

if TYPE_CHECKING:
    from edgefold.scoring.task import Task

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]

SAMPLES = 8
# Tensors of one model held at a time while layers are compared.
CAPTURE_BYTES = 256 << 20
_CHUNK = 64
_LAYERS = frozenset((
    "Conv", "ConvTranspose", "MatMul", "Gemm", "Gather", "MatMulNBits", "MatMulInteger", "ConvInteger", "QLinearConv",
    "QLinearMatMul", "ShiftMatMul", "ShiftConv", "FloatConv", "ShiftGather", "LSTM", "GRU", "RNN",
))  # fmt: skip


@dataclass(frozen=True)
class TensorDifference:
    """One tensor in both models.

    Attributes:
        tensor: its name in the first model.
        operators: what computes it in either model.
        max_abs: largest absolute difference; None where the shapes differ or values are not finite.
        rms: root of the mean squared difference.
        sqnr_db: energy of the first over energy of the difference; None where the two are equal.
        cosine: of the flattened tensors.
        note: what keeps the two from being compared.
    """

    tensor: str
    operators: tuple[str, str]
    max_abs: float | None = None
    rms: float | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Diff:
    """Two models compared.

    Attributes:
        models: the two files; differences are the second's from the first.
        samples: rows fed.
        fed: where the inputs come from: the task, or "random".
        outputs: the models' outputs.
        layers: layers in the order of the first model; their differences include what earlier layers added.
        unmatched: layers of the first model whose output tensor the second lacks (folded or fused away).
    """

    models: tuple[str, str]
    samples: int
    fed: str
    outputs: tuple[TensorDifference, ...]
    layers: tuple[TensorDifference, ...]
    unmatched: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON document of ``edgefold diff``."""
        return asdict(self)

    def to_text(self) -> str:
        """Outputs, then layers, as tables."""
        header = ("tensor", "operators", "max abs", "RMS", "SQNR dB", "cosine", "")
        lines = [f"{self.models[1]} against {self.models[0]}, {self.samples} samples, {self.fed} inputs", ""]
        outputs = [("output " + row[0], *row[1:]) for row in map(_cells, self.outputs)]
        lines.append(text_table(header, [*outputs, *map(_cells, self.layers)], left=2, notes=True))
        if self.layers:
            lines.append("\nDifferences of a layer include those of the layers before it.")
        if self.unmatched:
            names = ", ".join(self.unmatched[:8]) + (" ..." if len(self.unmatched) > 8 else "")
            lines.append(f"{len(self.unmatched)} layers have no tensor of the same name in the second model: {names}")
        return "\n".join(lines)


def diff(
    a: LoadedModel, b: LoadedModel, *, task: Task | None = None, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Diff:
    """Runs two models on the same inputs and compares outputs and layers.

    Layers are matched by the name of their output tensor, which compression keeps.

    Args:
        a: the model to compare with.
        b: the model to judge.
        task: gives the inputs: its first eight samples.
        shapes: without a task, sizes of dynamic dimensions for seeded random inputs.

    Raises:
        UsageError: a task and shapes; the models take different inputs, share no output, or a dynamic dimension has
            no size.
        ModelError: ONNX Runtime cannot run one of them.
    """
    check_one_source(task, shapes or {})
    faces = tuple(ModelInterface.of(make_session(one.path)).require_tensors() for one in (a, b))
    feeds_a, feeds_b = _feeds(a.path, b.path, faces, task, shapes or {})
    layers_a, layers_b = _layers(a.model), _layers(b.model)
    named_b = {value.name: node for node in b.model.graph for value in node.outputs}
    named_a = {value.name: node for node in a.model.graph for value in node.outputs}
    pairs = {
        name: (named_a[name].op_type, named_b[name].op_type)
        for name in named_a
        if name in named_b and (name in layers_a or name in layers_b)
    }
    outputs = _outputs(faces)
    operators = {name: _operators(name, pairs, named_a, named_b) for name in {*outputs, *pairs}}
    final = _compare(a.model, b.model, list(outputs.items()), operators, feeds_a, feeds_b)
    inner = [(name, name) for name in pairs if name not in outputs]
    found = [one for chunk in _chunks(inner) for one in _compare(a.model, b.model, chunk, operators, feeds_a, feeds_b)]
    unmatched = tuple(name for name in layers_a if name not in named_b)
    count = next((len(value) for value in feeds_a.values() if value.ndim), 1)
    fed = str(task.path) if task is not None else "random"
    return Diff((str(a.path), str(b.path)), count, fed, tuple(final), tuple(found), unmatched)


def compare_tensors(name: str, operators: tuple[str, str], first: Array, second: Array) -> TensorDifference:
    """Measures the difference of ``second`` from ``first``."""
    if first.shape != second.shape:
        return TensorDifference(name, operators, note=f"shapes {list(first.shape)} and {list(second.shape)}")
    if first.dtype.kind not in "fiub" or second.dtype.kind not in "fiub":
        return TensorDifference(name, operators, note=f"types {first.dtype} and {second.dtype}")
    if first.size == 0:
        return TensorDifference(name, operators, note="empty")
    left, right = first.astype(np.float64).ravel(), second.astype(np.float64).ravel()
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return TensorDifference(name, operators, note="NaN or infinite values")
    error = right - left
    noise, signal = float(error @ error), float(left @ left)
    sqnr = None if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise))
    cosine = float(row_cosine(left[None], right[None])[0])
    return TensorDifference(name, operators, float(np.abs(error).max()), (noise / left.size) ** 0.5, sqnr, cosine)


def _feeds(
    path_a: Path,
    path_b: Path,
    faces: Sequence[ModelInterface],
    task: Task | None,
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[Feeds, Feeds]:
    if task is not None:
        first, second = (next(task.batches(face, limit=SAMPLES)) for face in faces)
        if first.rows != second.rows:
            raise UsageError(f"{path_a} runs {first.rows} samples at a time, {path_b} {second.rows}; export one batch")
        return first.feeds, second.feeds
    feeds = random_feeds(faces[0], shapes)
    names = [port.name for port in faces[1].inputs]
    if set(names) != set(feeds):
        raise UsageError(f"{path_b} takes {', '.join(names)}; {path_a} takes {', '.join(feeds)}: not the same inputs")
    return feeds, {port.name: feeds[port.name].astype(port.dtype) for port in faces[1].inputs}


def _outputs(faces: Sequence[ModelInterface]) -> dict[str, str]:
    """Output of the first model -> its counterpart: of the same name, or the only one on either side."""
    names = [[port.name for port in face.outputs] for face in faces]
    if len(names[0]) == len(names[1]) == 1:
        return {names[0][0]: names[1][0]}
    shared = {name: name for name in names[0] if name in names[1]}
    if not shared:
        raise UsageError(f"the models share no output: {', '.join(names[0])} and {', '.join(names[1])}")
    return shared


def _layers(model: ir.Model) -> dict[str, ir.Node]:
    return {node.outputs[0].name or "": node for node in model.graph if node.op_type in _LAYERS}


def _operators(
    name: str, pairs: Mapping[str, tuple[str, str]], a: Mapping[Any, ir.Node], b: Mapping[Any, ir.Node]
) -> tuple[str, str]:
    if name in pairs:
        return pairs[name]
    return tuple(nodes[name].op_type if name in nodes else "" for nodes in (a, b))  # type: ignore[return-value]


def _chunks(names: Sequence[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    for start in range(0, len(names), _CHUNK):
        yield names[start : start + _CHUNK]


def _compare(
    a: ir.Model,
    b: ir.Model,
    names: Sequence[tuple[str, str]],
    operators: Mapping[str, tuple[str, str]],
    feeds_a: Feeds,
    feeds_b: Feeds,
) -> list[TensorDifference]:
    """Compares tensors; in halves where they are too large to be held together."""
    if not names:
        return []
    first = _captured(a, [one for one, _ in names], feeds_a)
    if sum(array.nbytes for array in first) > CAPTURE_BYTES and len(names) > 1:
        del first
        middle = len(names) // 2
        halves = (names[:middle], names[middle:])
        return [one for half in halves for one in _compare(a, b, half, operators, feeds_a, feeds_b)]
    second = _captured(b, [other for _, other in names], feeds_b)
    return [
        compare_tensors(name, operators[name], left, right)
        for (name, _), left, right in zip(names, first, second, strict=True)
    ]


def _captured(model: ir.Model, names: Sequence[str], feeds: Feeds) -> list[Array]:
    """Values of the named tensors in one run with the EdgeFold kernels."""
    exposed = model.clone()
    values = {value.name: value for node in exposed.graph for value in node.outputs}
    present = {output.name for output in exposed.graph.outputs}
    exposed.graph.outputs.extend(values[name] for name in names if name not in present)
    return run(make_session(exposed), list(names), feeds)


def _cells(row: TensorDifference) -> tuple[str, ...]:
    operators = row.operators[0] if row.operators[0] == row.operators[1] else " -> ".join(row.operators)
    if row.max_abs is None:
        return (row.tensor, operators, "-", "-", "-", "-", row.note)
    sqnr = "equal" if row.sqnr_db is None else f"{row.sqnr_db:.1f}"
    return (row.tensor, operators, f"{row.max_abs:.3g}", f"{row.rms:.3g}", sqnr, f"{row.cosine:.5f}", row.note)
