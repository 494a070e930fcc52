# SPDX-License-Identifier: Apache-2.0
"""Graphs that are not graphs: each is refused in one line that names the node, value or function."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper, parser

from edgefold.errors import ModelError
from edgefold.files.safety import check_model_file
from edgefold.files.wellformed import check_wellformed

HEAD = '<ir_version: 10, opset_import: ["" : 21, "my" : 1]>\n'

MALFORMED = {
    "no nodes": ("g (float[1] x) => (float[1] x) {}", "the graph has no nodes"),
    "no outputs": ("g (float[1] x) => () { y = Relu(x) }", "the graph has no outputs"),
    "two inputs": (
        "g (float[1] x, float[1] x) => (float[1] y) { y = Relu(x) }",
        "the graph: two inputs are named 'x'; names must be unique",
    ),
    "two initializers": (
        "g (float[1] x) => (float[1] y) <float[1] w = {1}, float[1] w = {2}> { y = Add(x, w) }",
        "the graph: two initializers are named 'w'; names must be unique",
    ),
    "two results": (
        "g (float[1] x) => (float[1] y) { [first] y = Relu(x) [second] y = Abs(x) }",
        "the graph: node 'second' (Abs) gives 'y' again; names must be unique",
    ),
    "a result named as an input": (
        "g (float[1] x) => (float[1] y) { y = Relu(x) [n] x = Abs(y) }",
        "node 'n' (Abs) gives 'x' again",
    ),
    "a result named as an initializer": (
        "g (float[1] x) => (float[1] w) <float[1] w = {1}> { [n] w = Add(x, w) }",
        "node 'n' (Add) gives 'w' again",
    ),
    "two results in a branch": (
        """g (bool c, float[1] x) => (float[1] y) { [if] y = If (c) <
             then_branch = t () => (float[1] p) { p = Relu(x) [again] p = Abs(x) },
             else_branch = e () => (float[1] q) { q = Abs(x) }> }""",
        "subgraph of node 'if' (If): node 'again' (Abs) gives 'p' again",
    ),
    "nothing produces it": (
        "g (float[1] x) => (float[1] y) { [n] y = Add(x, nowhere) }",
        "the graph: node 'n' (Add) needs 'nowhere', which nothing produces",
    ),
    "nothing produces it for a branch": (
        """g (bool c, float[1] x) => (float[1] y) { [if] y = If (c) <
             then_branch = t () => (float[1] p) { p = Add(x, nowhere) },
             else_branch = e () => (float[1] q) { q = Abs(x) }> }""",
        "the graph: node 'if' (If) needs 'nowhere', which nothing produces",
    ),
    "an output from nowhere": (
        "g (float[1] x) => (float[1] y, float[1] z) { y = Relu(x) }",
        "the graph: the output 'z' needs 'z', which nothing produces",
    ),
    "a cycle": (
        "g (float[1] x) => (float[1] y) { [a] p = Add(x, r) [b] q = Relu(p) [c] r = Abs(q) y = Relu(q) }",
        "the graph is cyclic: node 'a' (Add) needs its own result",
    ),
    "a node that feeds itself": (
        "g (float[1] x) => (float[1] y) { [n] y = Add(x, y) }",
        "the graph is cyclic: node 'n' (Add) needs its own result",
    ),
    "a cycle through a branch": (
        """g (bool c, float[1] x) => (float[1] y) { [if] y = If (c) <
             then_branch = t () => (float[1] p) { p = Relu(z) },
             else_branch = e () => (float[1] q) { q = Abs(x) }>
           z = Relu(y) }""",
        "the graph is cyclic: node 'if' (If) needs its own result",
    ),
    "not sorted": (
        "g (float[1] x) => (float[1] y) { [late] y = Relu(p) p = Abs(x) }",
        "the graph is not sorted: node 'late' (Relu) stands before a node it reads from; sort it with",
    ),
    "a domain that is not imported": (
        "g (float[1] x) => (float[1] y) { [n] y = strange.Op(x) }",
        "node 'n' (Op): unknown operator domain 'strange'; it is missing from the opset_import of the model",
    ),
    "a domain that is not imported, in a branch": (
        """g (bool c, float[1] x) => (float[1] y) { y = If (c) <
             then_branch = t () => (float[1] p) { [n] p = strange.Op(x) },
             else_branch = e () => (float[1] q) { q = Abs(x) }> }""",
        "node 'n' (Op): unknown operator domain 'strange'",
    ),
    "a domain that is not imported, in a function": (
        """g (float[1] x) => (float[1] y) { y = my.F(x) }
           <domain: "my", opset_import: ["" : 21]> F (a) => (b) { [n] b = strange.Op(a) }""",
        "node 'n' (Op): unknown operator domain 'strange'; it is missing from the opset_import of function 'F'",
    ),
    "a function defined twice": (
        """g (float[1] x) => (float[1] y) { y = my.F(x) }
           <domain: "my", opset_import: ["" : 21]> F (a) => (b) { b = Relu(a) }
           <domain: "my", opset_import: ["" : 21]> F (a) => (b) { b = Abs(a) }""",
        "function 'F' of domain 'my' is defined twice",
    ),
    "a function that calls itself": (
        """g (float[1] x) => (float[1] y) { y = my.F(x) }
           <domain: "my", opset_import: ["" : 21, "my" : 1]> F (a) => (b) { b = my.F(a) }""",
        "function 'F' calls itself, directly or through others",
    ),
    "functions that call each other, in a branch": (
        """g (bool c, float[1] x) => (float[1] y) { y = my.F(c, x) }
           <domain: "my", opset_import: ["" : 21, "my" : 1]> F (c, a) => (b) { b = If (c) <
             then_branch = t () => (float[1] p) { p = my.G(c, a) },
             else_branch = e () => (float[1] q) { q = Abs(a) }> }
           <domain: "my", opset_import: ["" : 21, "my" : 1]> G (c, a) => (b) { b = my.F(c, a) }""",
        "calls itself, directly or through others",
    ),
    "a function that gives a name twice": (
        """g (float[1] x) => (float[1] y) { y = my.F(x) }
           <domain: "my", opset_import: ["" : 21]> F (a) => (b) { b = Relu(a) [n] b = Abs(a) }""",
        "function 'F': node 'n' (Abs) gives 'b' again",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str, tmp_path: Path) -> None:
    text, complaint = MALFORMED[case]
    path = tmp_path / "model.onnx"
    path.write_bytes(parser.parse_model(HEAD + text).SerializeToString())
    with pytest.raises(ModelError) as caught:
        check_model_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_domain_imported_in_two_versions_is_refused() -> None:
    model = parser.parse_model(HEAD + "g (float[1] x) => (float[1] y) { y = Relu(x) }")
    model.opset_import.add(domain="ai.onnx", version=17)
    with pytest.raises(ModelError, match="imports domain '' in versions 21 and 17"):
        check_wellformed(model)


def test_functions_that_double_at_each_level_are_refused() -> None:
    """Thirty functions, each calling the one before twice: a small file that would inline to a billion nodes."""
    model = parser.parse_model(HEAD + "g (float[1] x) => (float[1] y) { y = my.F29(x) }")
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("my", 1)]
    for level in range(30):
        below = ("my", f"F{level - 1}") if level else ("", "Relu")
        nodes = [helper.make_node(below[1], [source], [to], domain=below[0]) for source, to in (("a", "h"), ("h", "b"))]
        model.functions.append(helper.make_function("my", f"F{level}", ["a"], ["b"], nodes, imports))
    with pytest.raises(ModelError, match=r"function 'F\d+' inlines to \d+ nodes; at most 10000000 are accepted"):
        check_wellformed(model)


WELL_FORMED = {
    "a branch reads from outside": """g (bool c, float[1] x) => (float[1] y) { a = Relu(x) y = If (c) <
        then_branch = t () => (float[1] p) { p = Relu(a) }, else_branch = e () => (float[1] q) { q = Abs(x) }> }""",
    "branches that use the same names": """g (bool c, float[1] x) => (float[1] y) { y = If (c) <
        then_branch = t () => (float[1] p) { p = Relu(x) }, else_branch = e () => (float[1] p) { p = Abs(x) }> }""",
    "a branch that gives an outer value": """g (bool c, float[1] x) => (float[1] y) { a = Relu(x) y = If (c) <
        then_branch = t () => (float[1] a) {}, else_branch = e () => (float[1] q) { q = Abs(x) }> }""",
    "an optional input left out": "g (float[1] x, float m) => (float[1] y) { y = Clip(x, , m) }",
    "a function called twice": """g (float[1] x) => (float[1] y) { h = my.F(x) y = my.F(h) }
        <domain: "my", opset_import: ["" : 21]> F (a) => (b) { b = Relu(a) }""",
    "initializers listed as inputs": "g (float[1] x, float[1] w) => (float[1] y) <float[1] w = {1}> { y = Add(x, w) }",
    "the long name of the standard domain": "g (float[1] x) => (float[1] y) { y = ai.onnx.Relu(x) }",
}


@pytest.mark.parametrize("case", WELL_FORMED)
def test_well_formed(case: str) -> None:
    check_wellformed(parser.parse_model(HEAD + WELL_FORMED[case]))


def test_a_cycle_is_found_in_a_graph_of_many_nodes() -> None:
    """A chain of 20,000 nodes with one edge back; linear time, no recursion."""
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name=f"n{i}") for i in range(20_000)]
    nodes[10_000] = helper.make_node("Add", ["v10000", "v10500"], ["v10001"], name="closing")
    value = [helper.make_tensor_value_info(name, 1, [1]) for name in ("v0", "v20000")]
    model = onnx.helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:]))
    with pytest.raises(ModelError, match="the graph is cyclic: node "):
        check_wellformed(model)
