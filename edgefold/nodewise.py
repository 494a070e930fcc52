# SPDX-License-Identifier: Apache-2.0
"""Node by node: does the library compute what the function body says, and what error does each node add?

Both questions are answered the same way. The tensors around the nodes are captured in one run, then each node runs
alone, as a one-node model, on the input it really had.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.errors import VerificationError
from edgefold.session import LITTLE_MEMORY, make_session

DOMAIN = "ai.edgefold"
PORTABLE_TOLERANCE = 1e-5  # of the output's largest magnitude
TIE_SHARE = 1e-4  # activations that may sit on a rounding tie, where two runtimes may choose neighbouring codes
LARGEST_LEVEL = 127  # magnitude of an integer weight
CAPTURE_BYTES = 256 << 20  # captured tensors held at a time


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How stock ONNX Runtime and the library agree on one file.

    Attributes:
        nodes: custom nodes compared.
        worst: largest difference, as a share of the node's largest output magnitude, ties aside.
        ties: activations on a rounding tie in the nodes that differ by more.
        elements: activations that went in.
    """

    nodes: int
    worst: float
    ties: int
    elements: int

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class NodeError:
    """Error that compressing one node adds to its own output, given the original's input."""

    node: str
    noise_to_signal: float


def custom_nodes(model: ir.Model) -> list[ir.Node]:
    """The ai.edgefold nodes of the main graph, in order."""
    return [node for node in model.graph if node.domain == DOMAIN]


def prove_portable(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> Agreement:
    """Run every custom node in stock ONNX Runtime (its function body) and in the library, on the same real inputs.

    Raises:
        VerificationError: a node differs by more than 1e-5 of its largest output, other than by the codes of at most
            1 in 10,000 activations, each on a rounding tie.
    """
    nodes = custom_nodes(model)
    worst, ties, elements = 0.0, 0, 0
    for chunk, captured in _captured(model, nodes, feeds, outputs=False):
        for node in chunk:
            data = captured[_input_name(node)]
            stock, ours = run_node(model, node, data, library=False), run_node(model, node, data)
            scale = max(float(np.abs(stock).max(initial=0.0)), 1e-30)
            error = np.abs(ours.astype(np.float64) - stock)
            differing = error > PORTABLE_TOLERANCE * scale
            if differing.any():
                ties += _explaining_ties(node, data, error)
            worst = max(worst, float(error[~differing].max(initial=0.0)) / scale)
            elements += data.size
    return Agreement(len(nodes), worst, ties, elements)


def _explaining_ties(node: ir.Node, data: np.ndarray, error: np.ndarray) -> int:
    """Number of activation codes on a rounding tie, if they can be what made two runs of a node differ.

    Raises:
        VerificationError: there are none, they are too many, or the difference is more than they can make.
    """
    if node.op_type == "ShiftGather":
        raise VerificationError(
            f"node {node.name}: the library and stock ONNX Runtime differ by {error.max():.1e}, and it rounds nothing"
        )
    scales, static = _constant(node, 4), float(_constant(node, 6)[0])
    high = node.attributes["activation_high"].as_int()
    x = data.astype(np.float32)
    row_scale = np.float32(static) if static > 0 else np.abs(x).max(axis=-1, keepdims=True) / np.float32(max(high, 1))
    quotient = x / np.where(row_scale > 0, row_scale, np.float32(np.inf))
    off_tie = np.abs(np.abs(quotient - np.floor(quotient)) - 0.5)
    ties = int(np.sum(off_tie <= 4 * np.finfo(np.float32).eps * np.maximum(np.abs(quotient), 1)))
    bound = ties * LARGEST_LEVEL * float(np.max(row_scale)) * float(scales.max())
    if high == 0 or not 0 < ties <= max(1, TIE_SHARE * data.size) or error.max() > bound:
        raise VerificationError(
            f"node {node.name}: the library and stock ONNX Runtime differ by {error.max():.1e}, and {ties} rounding "
            f"ties among {data.size} activations do not explain it"
        )
    return ties


def _constant(node: ir.Node, index: int) -> np.ndarray:
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def node_errors(original: ir.Model, compressed: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[NodeError]:
    """Rank the compressed nodes by the error each adds, largest first.

    Each compressed node runs on the tensor of the same name in the original; the reference is the original's tensor
    under the node's output name. Nodes whose tensors the original does not have are left out.
    """
    known = {value.name for node in original.graph for value in node.outputs} | {i.name for i in original.graph.inputs}
    nodes = [
        node
        for node in custom_nodes(compressed)
        if node.inputs[0] is not None and node.inputs[0].name in known and node.outputs[0].name in known
    ]
    ranked: list[NodeError] = []
    for chunk, captured in _captured(original, nodes, feeds):
        for node in chunk:
            wanted = captured[str(node.outputs[0].name)].astype(np.float64)
            error = run_node(compressed, node, captured[_input_name(node)]) - wanted
            signal = float(np.vdot(wanted, wanted))
            ranked.append(NodeError(str(node.name), float(np.vdot(error, error)) / max(signal, 1e-30)))
    return sorted(ranked, key=lambda item: (-item.noise_to_signal, item.node))


def run_node(model: ir.Model, node: ir.Node, data: np.ndarray, *, library: bool = True) -> np.ndarray:
    """Output of one custom node, run alone in ONNX Runtime: by the library, or by its function body."""
    name = _input_name(node)
    kind = ir.TensorType(ir.DataType.from_numpy(data.dtype))
    source = ir.Value(name=name, type=kind, shape=ir.Shape([None] * data.ndim))
    weights: dict[str, ir.Value] = {}  # by name: one constant may serve as two inputs
    for value in node.inputs[1:]:
        assert value is not None
        assert value.const_value is not None, f"{node.name}: weight {value.name} is not an initializer"
        copy = ir.Value(name=value.name, const_value=value.const_value, type=value.type, shape=value.shape)
        weights.setdefault(str(value.name), copy)
    constants = [weights[str(value.name)] for value in node.inputs[1:] if value is not None]
    output = ir.Value(name="output", type=ir.TensorType(ir.DataType.FLOAT))
    attributes = [ir.Attr(a.name, a.type, a.value) for a in node.attributes.values()]
    alone = ir.Node(DOMAIN, node.op_type, [source, *constants], attributes=attributes, outputs=[output], name=node.name)
    graph = ir.Graph(
        [source], [output], nodes=[alone], initializers=list(weights.values()), opset_imports=_imports(model)
    )
    single = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
    session = make_session(single, library=library, config=LITTLE_MEMORY)
    return np.asarray(session.run(["output"], {name: data})[0])


def _input_name(node: ir.Node) -> str:
    assert node.inputs[0] is not None
    return str(node.inputs[0].name)


def _imports(model: ir.Model) -> dict[str, int]:
    imports = dict(model.graph.opset_imports)
    return {"": imports.get("", 21), DOMAIN: imports.get(DOMAIN, 1)}


def _captured(
    model: ir.Model, nodes: Sequence[ir.Node], feeds: Mapping[str, np.ndarray], *, outputs: bool = True
) -> Iterator[tuple[list[ir.Node], dict[str, np.ndarray]]]:
    """Runs of nodes with their inputs (and outputs), in chunks of bounded memory."""
    size = max(1, len(nodes))
    start = 0
    while start < len(nodes):
        chunk = list(nodes[start : start + size])
        wanted = sorted(
            {_input_name(n) for n in chunk} | ({str(n.outputs[0].name) for n in chunk} if outputs else set())
        )
        captured = capture(model, wanted, feeds)
        total = sum(array.nbytes for array in captured.values())
        if total > CAPTURE_BYTES and len(chunk) > 1:
            size = max(1, len(chunk) * CAPTURE_BYTES // total)
            continue
        yield chunk, captured
        start += len(chunk)


def capture(model: ir.Model, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of the named tensors (graph inputs included) in one run."""
    exposed = model.clone()
    values = {str(value.name): value for node in exposed.graph for value in node.outputs}
    present = {output.name for output in exposed.graph.outputs}
    for name in names:
        if name in values and name not in present:
            exposed.graph.outputs.append(values[name])
    session = make_session(exposed, config=LITTLE_MEMORY)
    wanted = [name for name in names if name in values or name in present]
    result = dict(zip(wanted, session.run(wanted, dict(feeds)), strict=True)) if wanted else {}
    return {**{name: feeds[name] for name in names if name in feeds}, **result}
