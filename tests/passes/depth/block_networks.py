# SPDX-License-Identifier: Apache-2.0
"""Small networks written node by node, in the forms that exporters and optimizers give them."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
from graphs import graph, weights

WIDTH, HIDDEN = 16, 32


class Network:
    """Collects nodes as text, and their weights."""

    def __init__(self, inputs: str = f"float[b, t, {WIDTH}] x") -> None:
        self.inputs = inputs
        self.lines: list[str] = []
        self.arrays: dict[str, np.ndarray] = {
            "heads": np.array([0, 0, 2, 8], np.int64),
            "flat": np.array([0, 0, WIDTH], np.int64),
            "scale": np.array(0.35, np.float32),
        }

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.arrays)}"
        self.arrays[name] = weights(*shape, seed=len(self.arrays)) * np.float32(0.2)
        return name

    def add(self, operator: str, *inputs: str, attributes: str = "", outputs: int = 1) -> str:
        """Adds a node; gives its first output, to which `_1`, `_2` ... are appended for the others."""
        first = f"v{len(self.lines)}"
        names = [first, *(f"{first}_{n}" for n in range(1, outputs))]
        self.lines.append(f"{', '.join(names)} = {operator}{attributes}({', '.join(inputs)})")
        return first

    def linear(self, x: str, inputs: int = WIDTH, outputs: int = WIDTH) -> str:
        return self.add("Add", self.add("MatMul", x, self.weight(inputs, outputs)), self.weight(outputs))

    def norm(self, x: str) -> str:
        return self.add("LayerNormalization", x, self.weight(WIDTH), self.weight(WIDTH), attributes="<axis = -1>")

    def written_out_norm(self, x: str) -> str:
        """As exporters wrote it before opset 17."""
        centred = self.add("Sub", x, self.add("ReduceMean", x, self.axis()))
        variance = self.add("ReduceMean", self.add("Mul", centred, centred), self.axis())
        ratio = self.add("Div", centred, self.add("Sqrt", self.add("Add", variance, "scale")))
        return self.add("Add", self.add("Mul", ratio, self.weight(WIDTH)), self.weight(WIDTH))

    def axis(self) -> str:
        self.arrays["axis"] = np.array([-1], np.int64)
        return "axis"

    def attention(self, x: str, memory: str = "", mask: str = "") -> str:
        """What is added to the stream."""
        q, k, v = (self.split(self.linear(one)) for one in (x, memory or x, memory or x))
        turned = self.add("Transpose", k, attributes="<perm = [0, 1, 3, 2]>")
        scores = self.add("Mul", self.add("MatMul", q, turned), "scale")
        scores = self.add("Add", scores, mask) if mask else scores
        mixed = self.add("MatMul", self.add("Softmax", scores), v)
        mixed = self.add("Reshape", self.add("Transpose", mixed, attributes="<perm = [0, 2, 1, 3]>"), "flat")
        return self.linear(mixed)

    def split(self, x: str) -> str:
        return self.add("Transpose", self.add("Reshape", x, "heads"), attributes="<perm = [0, 2, 1, 3]>")

    def feed_forward(self, x: str) -> str:
        return self.linear(self.add("Gelu", self.linear(x, WIDTH, HIDDEN)), HIDDEN, WIDTH)

    def pre_norm(self, x: str, mask: str = "") -> str:
        x = self.add("Add", x, self.attention(self.norm(x), mask=mask))
        return self.add("Add", x, self.feed_forward(self.norm(x)))

    def post_norm(self, x: str, mask: str = "") -> str:
        x = self.written_out_norm(self.add("Add", self.attention(x, mask=mask), x))
        return self.written_out_norm(self.add("Add", self.feed_forward(x), x))

    def conv(self, x: str, inputs: int, outputs: int, side: int = 3, more: str = "") -> str:
        shape = (outputs, inputs, side, side)
        pads = [side // 2] * 4
        return self.add("Conv", x, self.weight(*shape), self.weight(outputs), attributes=f"<pads = {pads}{more}>")

    def residual(self, x: str, width: int = 8) -> str:
        y = self.conv(self.add("Relu", self.conv(x, width, width)), width, width)
        return self.add("Relu", self.add("Add", y, x))

    def model(self, *outputs: str) -> ir.Model:
        """The graph with these outputs, of unknown shape."""
        lines = " ".join(self.lines)
        given = ", ".join(f"float {name}" for name in outputs)
        read = set(re.findall(r"\w+", lines))
        arrays = {name: array for name, array in self.arrays.items() if name in read}
        return graph(f"g ({self.inputs}) => ({given}) {{ {lines} }}", arrays)
