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
# Operators that quantize what they compute: a last bit of a sum or an activation function may turn some of their codes,
# which nothing outside shows; by that share of the output, in root mean square, they may differ.
HIDDEN_ROWS = {"ShiftMoE": 1e-3, "FusedFeedForward": 1e-3, "FusedConvBlock": 1e-3}
HIDDEN_ROWS["FusedInvertedResidual"] = 1e-2  # three roundings, the last one seen as whole codes; 1.4e-3 on MobileNetV2


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
            1 in 10,000 activations, each on a rounding tie, or by those of the hidden rows that it quantizes within.
    """
    nodes = custom_nodes(model)
    worst, ties, elements = 0.0, 0, 0
    for chunk, captured in _captured(model, nodes, feeds, outputs=False):
        for node in chunk:
            data = {name: captured[name] for name in _input_names(node)}
            stock, ours = run_node(model, node, data, library=False), run_node(model, node, data)
            scale = max(float(np.abs(stock).max(initial=0.0)), 1e-30)
            error = np.abs(ours.astype(np.float64) - stock)
            differing = error > PORTABLE_TOLERANCE * scale
            if differing.any():
                ties += _explaining_ties(node, data, error, stock)
            worst = max(worst, float(error[~differing].max(initial=0.0)) / scale)
            elements += sum(array.size for array in data.values())
    return Agreement(len(nodes), worst, ties, elements)


def _explaining_ties(node: ir.Node, data: Mapping[str, np.ndarray], error: np.ndarray, stock: np.ndarray) -> int:
    """Number of activation codes on a rounding tie, if they can be what made two runs of a node differ.

    Raises:
        VerificationError: there are none, they are too many, or the difference is more than they can make.
    """
    if node.op_type == "ShiftGather":
        raise VerificationError(
            f"node {node.name}: the library and stock ONNX Runtime differ by {error.max():.1e}, and it rounds nothing"
        )
    if node.op_type in HIDDEN_ROWS:
        share = float(np.linalg.norm(error) / max(float(np.linalg.norm(stock)), 1e-30))
        if share > HIDDEN_ROWS[node.op_type]:
            raise VerificationError(
                f"node {node.name}: the library and stock ONNX Runtime differ by {share:.1e} of the output; expected "
                f"at most {HIDDEN_ROWS[node.op_type]:.0e}"
            )
        return 0
    scales, static = _constant(node, 4), float(_constant(node, 6)[0])
    high = node.attributes["activation_high"].as_int()
    [x] = (array.astype(np.float32) for array in data.values())
    row_scale = np.float32(static) if static > 0 else np.abs(x).max(axis=-1, keepdims=True) / np.float32(max(high, 1))
    quotient = x / np.where(row_scale > 0, row_scale, np.float32(np.inf))
    off_tie = np.abs(np.abs(quotient - np.floor(quotient)) - 0.5)
    ties = int(np.sum(off_tie <= 4 * np.finfo(np.float32).eps * np.maximum(np.abs(quotient), 1)))
    bound = ties * LARGEST_LEVEL * float(np.max(row_scale)) * float(scales.max())
    if high == 0 or not 0 < ties <= max(1, TIE_SHARE * x.size) or error.max() > bound:
        raise VerificationError(
            f"node {node.name}: the library and stock ONNX Runtime differ by {error.max():.1e}, and {ties} rounding "
            f"ties among {x.size} activations do not explain it"
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
    nodes = [node for node in custom_nodes(compressed) if {*_input_names(node), node.outputs[0].name} <= known]
    ranked: list[NodeError] = []
    for chunk, captured in _captured(original, nodes, feeds):
        for node in chunk:
            wanted = captured[str(node.outputs[0].name)].astype(np.float64)
            error = run_node(compressed, node, {name: captured[name] for name in _input_names(node)}) - wanted
            signal = float(np.vdot(wanted, wanted))
            ranked.append(NodeError(str(node.name), float(np.vdot(error, error)) / max(signal, 1e-30)))
    return sorted(ranked, key=lambda item: (-item.noise_to_signal, item.node))


def run_node(model: ir.Model, node: ir.Node, data: Mapping[str, np.ndarray], *, library: bool = True) -> np.ndarray:
    """Output of one custom node, run alone in ONNX Runtime: by the library, or by its function body.

    Args:
        model: whose functions and imports the node needs.
        node: whose inputs are constants, or in `data`.
        data: by name.
        library: whether the library's kernel runs it.
    """
    values: dict[str, ir.Value] = {}  # by name: one constant may serve as two inputs
    for value in node.inputs:
        assert value is not None
        name = str(value.name)
        if name in data:
            kind = ir.TensorType(ir.DataType.from_numpy(data[name].dtype))
            values[name] = ir.Value(name=name, type=kind, shape=ir.Shape([None] * data[name].ndim))
        else:
            assert value.const_value is not None, f"{node.name}: {name} is neither given nor an initializer"
            copy = ir.Value(name=name, const_value=value.const_value, type=value.type, shape=value.shape)
            values.setdefault(name, copy)
    inputs = [values[str(value.name)] for value in node.inputs if value is not None]
    output = ir.Value(name="output", type=node.outputs[0].type or ir.TensorType(ir.DataType.FLOAT))
    attributes = [ir.Attr(a.name, a.type, a.value) for a in node.attributes.values()]
    alone = ir.Node(DOMAIN, node.op_type, inputs, attributes=attributes, outputs=[output], name=node.name)
    sources = [values[name] for name in data]
    weights = [value for name, value in values.items() if name not in data]
    graph = ir.Graph(sources, [output], nodes=[alone], initializers=weights, opset_imports=_imports(model))
    single = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
    session = make_session(single, library=library, config=LITTLE_MEMORY)
    return np.asarray(session.run(["output"], dict(data))[0])


def _input_names(node: ir.Node) -> list[str]:
    """The node's inputs that are no constants, each once."""
    return list(dict.fromkeys(str(one.name) for one in node.inputs if one is not None and one.const_value is None))


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
        read = {name for node in chunk for name in _input_names(node)}
        wanted = sorted(read | ({str(node.outputs[0].name) for node in chunk} if outputs else set()))
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
