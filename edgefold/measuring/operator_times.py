# SPDX-License-Identifier: Apache-2.0
"""Times of single operators in ONNX Runtime on this machine, measured once and kept in a file."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgefold.errors import ModelError, UsageError
from edgefold.measuring.kept import keep, kept_file
from edgefold.passes.pruning.latency import Operation
from edgefold.session import make_session, run

ENVIRONMENT = "EDGEFOLD_OPERATOR_TIMES"
"""Names the file to use instead of the one in the user's cache folder; one from another device can be put there."""

_NOTHING = Operation("Identity", 21, (), ((1,),), (False,), 1)  # what remains of its time is the call itself
_RUNS, _SECONDS = 15, 0.05  # of one operation: as many runs as fit into the time, three at least, fifteen at most


def table_path() -> Path:
    """The file for this machine and this ONNX Runtime, one thread."""
    import onnxruntime

    return kept_file(ENVIRONMENT, "operator-times", onnxruntime.__version__, "1 thread")


def operator_times(operations: Sequence[Operation]) -> dict[Operation, float]:
    """Seconds of each operation on one thread; those not in the table are measured and added to it.

    Operations that ONNX Runtime refuses on random numbers are left out.

    Raises:
        UsageError: the file that the environment names is no such table.
    """
    path = table_path()
    table = _read(path)
    missing = [one for one in operations if _key(one) not in table]
    call = _measure(_NOTHING) or 0.0 if missing else 0.0
    for one in missing:
        seconds = _measure(one)
        table[_key(one)] = None if seconds is None else max(seconds - call, 0.0)
    if missing:
        keep(path, table)
    return {one: seconds for one in operations if (seconds := table[_key(one)]) is not None}


def _read(path: Path) -> dict[str, float | None]:
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: no table of operator times ({error}); delete it to measure again") from None
    if not isinstance(table, dict) or not all(isinstance(one, float | None) for one in table.values()):
        raise UsageError(f"{path}: expected operators and their seconds; delete it to measure again")
    return table


def _key(one: Operation) -> str:
    return json.dumps([one.op_type, one.opset, one.attributes, one.inputs, one.constants, one.outputs])


def _measure(one: Operation) -> float | None:
    """Median seconds of a run; None where the operator does not run alone."""
    model, feeds = _alone(one)
    try:
        session = make_session(model, threads=1)
        run(session, None, feeds)
    except ModelError:
        return None
    samples: list[float] = []
    while len(samples) < _RUNS and (len(samples) < 3 or sum(samples) < _SECONDS):
        started = time.perf_counter()
        run(session, None, feeds)
        samples.append(time.perf_counter() - started)
    return statistics.median(samples)


def _alone(one: Operation) -> tuple[ir.Model, Mapping[str, np.ndarray]]:
    """A model of the one operator, and random inputs."""
    random = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {}
    values: list[ir.Value | None] = []
    stored = []
    for number, (shape, constant) in enumerate(zip(one.inputs, one.constants, strict=True)):
        if shape is None:
            values.append(None)
            continue
        array = np.abs(random.standard_normal(shape, dtype=np.float32))  # a variance is not negative
        value = ir.Value(name=f"x{number}", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        if constant:
            value.const_value = ir.tensor(array, name=value.name)
            stored.append(value)
        else:
            feeds[f"x{number}"] = array
        values.append(value)
    node = ir.node(one.op_type, values, dict(one.attributes), num_outputs=one.outputs)
    for number, output in enumerate(node.outputs):
        output.name = f"y{number}"
    inputs = [value for value in values if value is not None and value.name in feeds]
    graph = ir.Graph(
        inputs, node.outputs, nodes=[node], initializers=stored, opset_imports={"": one.opset}, name="alone"
    )
    return ir.Model(graph, ir_version=10), feeds
