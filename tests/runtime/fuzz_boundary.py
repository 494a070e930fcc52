# SPDX-License-Identifier: Apache-2.0
"""Throws malformed nodes at the operator library; a process of its own, for what it looks for is a crash.

    [EDGEFOLD_OPS=LIBRARY] python tests/runtime/fuzz_boundary.py FIRST_SEED CASES [OPERATOR ...]

Every case is a node that works with one thing changed: an attribute, an initializer, or an input. It must be refused
with a message, or run: then twice with equal results, the second time into memory between two canaries. The last line
printed before a crash names the operator, the seed and the change.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from working_nodes import NODES

Array = np.ndarray[Any, Any]

INTEGERS = [*range(-2, 10), *(sign * 2**power + step for power in (4, 5, 7, 8, 16, 31, 62) for sign in (-1, 1)
                              for step in (-1, 0, 1))]  # fmt: skip
FLOATS = (np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1e38, -1e38, 1e-45, 0.5)
TYPES = (np.float32, np.float64, np.uint8, np.int8, np.int32, np.int64)
GUARD, CANARY = 256, 0xA5


def change(rng: np.random.Generator, model: onnx.ModelProto, feeds: dict[str, Array]) -> str:
    """Changes one thing of the node or of what it is fed, in place; says what."""
    graph, node = model.graph, model.graph.node[0]
    del model.functions[:]  # the library's kernel and nothing else
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.ClearField("shape")
    kinds = {"attribute": node.attribute, "initializer": graph.initializer, "input": graph.input}
    kind = rng.choice([kind for kind, there in kinds.items() if there])
    if kind == "attribute":
        attribute = node.attribute[int(rng.integers(len(node.attribute)))]
        if rng.random() < 0.05:
            node.attribute.remove(attribute)
            return f"without {attribute.name}"
        value = _other_attribute(rng, helper.get_attribute_value(attribute))
        attribute.CopyFrom(helper.make_attribute(attribute.name, value, attr_type=_type_of(value)))
        return f"{attribute.name}={value}"
    if kind == "initializer":
        tensor = graph.initializer[int(rng.integers(len(graph.initializer)))]
        name = tensor.name
        array = _other_array(rng, numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(array, name))
        return f"{name} {array.dtype}{list(array.shape)}"
    name = str(rng.choice(sorted(feeds)))
    feeds[name] = _other_array(rng, feeds[name])
    for value in graph.input:
        if value.name == name:
            value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(feeds[name].dtype)
    return f"fed {name} {feeds[name].dtype}{list(feeds[name].shape)}"


def _other_attribute(rng: np.random.Generator, value: Any) -> Any:
    if rng.random() < 0.05:  # another type
        return 1.5 if isinstance(value, int | list) else 1
    if isinstance(value, float):
        return float(rng.choice(FLOATS))
    if isinstance(value, int):
        return int(rng.choice(INTEGERS))
    numbers = list(value)
    place = int(rng.integers(len(numbers)))
    return [
        numbers[:-1],
        [],
        [*numbers, 1],
        [*numbers[:place], int(rng.choice(INTEGERS)), *numbers[place + 1 :]],
        numbers[::-1],
    ][int(rng.integers(5))]


def _type_of(value: Any) -> int:
    if isinstance(value, list):
        return int(onnx.AttributeProto.INTS)
    return int(onnx.AttributeProto.FLOAT if isinstance(value, float) else onnx.AttributeProto.INT)


def _other_array(rng: np.random.Generator, array: Array) -> Array:
    """The array cut short, lengthened, reshaped, of another type, or with other contents."""
    axis = int(rng.integers(max(array.ndim, 1)))
    if array.ndim == 0 or (choice := int(rng.integers(9))) == 0:
        return _noise(rng, array)
    if choice == 1:
        return array.astype(rng.choice(TYPES))
    if choice == 2:
        return array.reshape(-1)
    if choice == 3:
        return array[None]
    if choice == 4:
        return np.swapaxes(array, 0, axis).copy()
    if choice == 5:
        return np.concatenate([array, array], axis)
    if choice == 6:
        return np.take(array, [], axis)
    if choice == 7:
        return np.delete(array, -1, axis)
    return np.array(array.reshape(-1)[:1]).reshape(()) if array.size else array[None]


def _noise(rng: np.random.Generator, array: Array) -> Array:
    if array.dtype == np.float32:
        return np.where(rng.random(array.shape) < 0.5, rng.choice(FLOATS, array.shape), array).astype(np.float32)
    if array.dtype == np.int64:
        return rng.choice(INTEGERS, array.shape)
    return np.frombuffer(rng.bytes(array.nbytes), array.dtype).reshape(array.shape).copy()


def attempt(model: onnx.ModelProto, feeds: dict[str, Array], threads: int, library: str) -> str:
    """ "" where the node ran, else the message of the refusal."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(library)
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs = dict(zip((one.name for one in session.get_outputs()), session.run(None, feeds), strict=True))
    except Exception as refusal:  # ONNX Runtime's exceptions have no common class
        if not type(refusal).__module__.startswith("onnxruntime"):
            raise
        return str(refusal)
    guarded = {name: np.full(y.nbytes + 2 * GUARD, CANARY, np.uint8) for name, y in outputs.items()}
    if any(y.size == 0 for y in outputs.values()):  # ONNX Runtime binds no memory to it
        return ""
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array.copy(order="C"))
    for name, y in outputs.items():
        binding.bind_output(name, "cpu", 0, y.dtype, y.shape, guarded[name].ctypes.data + GUARD)
    session.run_with_iobinding(binding)
    for name, y in outputs.items():
        inside = guarded[name][GUARD : GUARD + y.nbytes]
        assert inside.tobytes() == y.tobytes(), "another result the second time"
        around = np.delete(guarded[name], slice(GUARD, GUARD + y.nbytes))
        assert (around == CANARY).all(), "written outside of the output"
    return ""


def main(first: int, cases: int, names: list[str]) -> None:
    from edgefold.runtime import ops_library

    library = os.environ.get("EDGEFOLD_OPS") or str(ops_library())
    for name in names or NODES:
        counts = {"ran": 0, "refused": 0}
        for seed in range(first, first + cases):
            rng = np.random.default_rng(seed)
            model, feeds = NODES[name](rng)
            what = change(rng, model, feeds)
            print(f"{name} seed {seed}: {what}", flush=True)
            message = attempt(model, feeds, 2 if seed % 4 == 0 else 1, library)
            assert not message or name in message or "node" in message, message
            counts["refused" if message else "ran"] += 1
        print(json.dumps({name: counts}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
