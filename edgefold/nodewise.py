# SPDX-License-Identifier: Apache-2.0
"""Node by node: does the library compute what the function body says, and what error does each node add?

Both questions are answered the same way. The tensors around the nodes are captured in one run, then each node runs
alone, as a one-node model, on the input it really had.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.captured_tensors import capture, captured_in_chunks, input_names, runs_of_nodes
from edgefold.errors import ModelError, VerificationError
from edgefold.measuring.unfused import ATTENTION
from edgefold.passes._subgraphs import nodes_of
from edgefold.passes.fusion.activations import ActivationKind
from edgefold.session import LITTLE_MEMORY, make_session

DOMAIN = "ai.edgefold"
PORTABLE_TOLERANCE = 1e-5  # of the output's largest magnitude
APPROXIMATED = frozenset({"SIGMOID", "TANH", "SWISH", "GELU", "GELU_TANH"})
"""Functions that the kernels compute within 2^-21 of their argument; others and integer sums are equal in every bit."""
APPROXIMATED_SHARE = 1e-3
"""What that may change where it is rounded to codes, of the output in root mean square.

A code turns where 2^-21 of it, at most 127, lies across a tie: 1.2e-4 of all, by one step, of codes that are
30 steps in root mean square: 4e-4.
"""
REORDERED_SHARE = 1e-2
"""What ONNX Runtime's own optimizations may change, of the output in root mean square.

They multiply scales into weights, so that sums end in other bits and codes near a tie turn, within a fused node too:
by 1.4e-3 in an inverted residual block of a MobileNetV2, whose body as it is written agrees in every bit.
"""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How stock ONNX Runtime and the library agree on one file.

    Attributes:
        nodes: custom nodes compared.
        worst: largest difference, as a share of the node's largest output magnitude, turned codes aside.
        reordered: nodes in which ONNX Runtime's optimizations turn codes: they agree as their bodies are written.
        elements: activations that went in.
        unreached: custom nodes that were not compared, since their bodies did not run on these inputs.
    """

    nodes: int
    worst: float
    reordered: int
    elements: int
    unreached: int = 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class NodeError:
    """Error that compressing one node adds to its own output, given the original's input."""

    node: str
    noise_to_signal: float


def custom_nodes(model: ir.Model) -> list[ir.Node]:
    """The ai.edgefold nodes of the main graph and of the bodies of If, Loop and Scan, in order."""
    return [node for node in nodes_of(model.graph) if node.domain == DOMAIN]


def prove_portable(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> Agreement:
    """Run every custom node in stock ONNX Runtime (its function body) and in the library, on the same real inputs.

    What the library has to compute is the body as it is written, operator by operator. ONNX Runtime's optimizer writes
    it anew; where the two then differ, the node runs without the optimizer too, and that decides.

    Raises:
        VerificationError: a node differs by more than 1e-5 of its largest output from its body as it is written (by
            `APPROXIMATED_SHARE`, if it rounds a function that kernels approximate), or the optimizer changes the body
            by more than `REORDERED_SHARE`.
    """
    nodes = custom_nodes(model)
    worst, reordered, elements = 0.0, 0, 0
    unreached = set(nodes)
    for node, data in runs_of_nodes(model, nodes, feeds):
        unreached.remove(node)
        elements += sum(array.size for array in data.values())
        ours = run_outputs(model, node, data)
        found = _Difference.of(ours, run_outputs(model, node, data, library=False))
        if not found.largest <= PORTABLE_TOLERANCE:
            _require_numbers(node, data)
            _require(node, found, REORDERED_SHARE, "as ONNX Runtime optimizes it")
            found = _Difference.of(ours, run_outputs(model, node, data, library=False, optimize=False))
            reordered += found.largest <= PORTABLE_TOLERANCE
        if not found.largest <= PORTABLE_TOLERANCE:
            _require(node, found, APPROXIMATED_SHARE if _approximates(node) else 0.0, "as it is written")
        else:
            worst = max(worst, found.largest)
    return Agreement(len(nodes) - len(unreached), worst, reordered, elements, len(unreached))


@dataclasses.dataclass(frozen=True)
class _Difference:
    """Of two runs of a node: the largest, of the largest magnitude, and the root mean square, of the output's; the
    worst of its outputs.
    """

    largest: float
    share: float

    @classmethod
    def of(cls, ours: Sequence[np.ndarray], stock: Sequence[np.ndarray]) -> _Difference:
        each = [cls._of_one(*pair) for pair in zip(ours, stock, strict=True)]
        return cls(float(np.max([one.largest for one in each])), float(np.max([one.share for one in each])))

    @classmethod
    def _of_one(cls, ours: np.ndarray, stock: np.ndarray) -> _Difference:
        wanted = stock.astype(np.float64)
        same = (ours == wanted) | (np.isnan(ours) & np.isnan(wanted))  # infinities too
        error = np.abs(np.where(same, 0.0, ours - np.where(same, 0.0, wanted)))
        signal = np.abs(wanted[np.isfinite(wanted)])
        return cls(
            float(error.max(initial=0.0)) / max(float(signal.max(initial=0.0)), 1e-30),
            float(np.linalg.norm(error)) / max(float(np.linalg.norm(signal)), 1e-30),
        )


def _require_numbers(node: ir.Node, data: Mapping[str, np.ndarray]) -> None:
    for name, array in data.items():
        if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
            raise ModelError(
                f"node {node.name}: its input {name} holds NaN when the model is run, so that nothing can be compared; "
                "look for NaN or infinity in the original's weights, or give data that it can compute (-d)"
            )


def _require(node: ir.Node, found: _Difference, share: float, form: str) -> None:
    if not found.share <= share:
        expected = f"{share:.0e} in root mean square" if share else f"{PORTABLE_TOLERANCE:.0e} in every element"
        raise VerificationError(
            f"node {node.name}: the library and its function body, {form}, differ by {found.share:.1e} of the output "
            f"in root mean square, {found.largest:.1e} of the largest element; expected at most {expected}"
        )


def _approximates(node: ir.Node) -> bool:
    """Whether a node rounds to codes, within, what a function gave that kernels approximate."""
    if node.op_type in ATTENTION:  # weights are rounded exponentials
        return True
    functions = (value.as_int() for name, value in node.attributes.items() if name.split("_")[-1] == "function")
    return any(ActivationKind(number).name in APPROXIMATED for number in functions)


def node_errors(original: ir.Model, compressed: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[NodeError]:
    """Rank the compressed nodes by the error each adds, largest first.

    Each compressed node runs on the tensor of the same name in the original; the reference is the original's tensor
    under the node's output name. Nodes whose tensors the original does not have, or has with other channels, are left
    out.
    """
    known = {value.name for node in nodes_of(original.graph) for value in node.outputs}
    known |= {value.name for graph in original.graphs() for value in graph.inputs}
    nodes = [node for node in custom_nodes(compressed) if {*input_names(node), node.outputs[0].name} <= known]
    ranked: list[NodeError] = []
    for chunk, captured in captured_in_chunks(original, nodes, feeds):
        alike = _alike(captured, capture(compressed, list(captured), feeds))
        for node in chunk:
            if not {*input_names(node), str(node.outputs[0].name)} <= alike:
                continue  # cut, or in a body that did not run
            wanted = captured[str(node.outputs[0].name)].astype(np.float64)
            found = run_node(compressed, node, {name: captured[name] for name in input_names(node)})
            error = found.reshape(wanted.shape) - wanted  # what iterations looked up may be joined another way
            signal = float(np.vdot(wanted, wanted))
            ranked.append(NodeError(str(node.name), float(np.vdot(error, error)) / max(signal, 1e-30)))
    return sorted(ranked, key=lambda item: (-item.noise_to_signal, item.node))


def _alike(original: Mapping[str, np.ndarray], compressed: Mapping[str, np.ndarray]) -> set[str]:
    """The tensors that have one shape in both models: of others some channels were cut."""
    return {name for name, value in original.items() if name in compressed and compressed[name].shape == value.shape}


def run_node(
    model: ir.Model, node: ir.Node, data: Mapping[str, np.ndarray], *, library: bool = True, optimize: bool = True
) -> np.ndarray:
    """First output of one custom node; see `run_outputs`."""
    return run_outputs(model, node, data, library=library, optimize=optimize)[0]


def run_outputs(
    model: ir.Model, node: ir.Node, data: Mapping[str, np.ndarray], *, library: bool = True, optimize: bool = True
) -> list[np.ndarray]:
    """Outputs of one custom node, run alone in ONNX Runtime: by the library, or by its function body.

    Args:
        model: whose functions and imports the node needs.
        node: whose inputs are constants, or in `data`.
        data: by name.
        library: whether the library's kernel runs it.
        optimize: whether ONNX Runtime may optimize the body.
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
    outputs = [
        ir.Value(name=f"output{place}", type=one.type or ir.TensorType(ir.DataType.FLOAT))
        for place, one in enumerate(node.outputs)
    ]
    attributes = [ir.Attr(a.name, a.type, a.value) for a in node.attributes.values()]
    alone = ir.Node(DOMAIN, node.op_type, inputs, attributes=attributes, outputs=outputs, name=node.name)
    sources = [values[name] for name in data]
    weights = [value for name, value in values.items() if name not in data]
    graph = ir.Graph(sources, outputs, nodes=[alone], initializers=weights, opset_imports=_imports(model))
    single = ir.Model(graph, ir_version=model.ir_version, functions=_called(model, node))
    session = make_session(single, library=library, optimize=optimize, config=LITTLE_MEMORY)
    return [np.asarray(one) for one in session.run(None, dict(data))]


def _called(model: ir.Model, node: ir.Node) -> list[ir.Function]:
    """The functions that a node's own calls, and its own; the others would be copied and parsed for every node."""
    called: set[ir.OperatorIdentifier] = set()
    wanted = [node.op_identifier()]
    while wanted:
        key = wanted.pop()
        if key in model.functions and key not in called:
            called.add(key)
            wanted += [inner.op_identifier() for inner in model.functions[key].all_nodes()]
    return [function for key, function in model.functions.items() if key in called]


def _imports(model: ir.Model) -> dict[str, int]:
    imports = dict(model.graph.opset_imports)
    return {"": imports.get("", 21), DOMAIN: imports.get(DOMAIN, 1)}
