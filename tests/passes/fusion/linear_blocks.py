# SPDX-License-Identifier: Apache-2.0
"""Small graphs of quantized linear layers, as the pass quantize writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import graphs
import numpy as np
import onnx_ir as ir

from edgefold.passes import Context
from edgefold.passes.quantize import Quantize

WIDTH, HIDDEN = 16, 40


def quantized(
    text: str, *, inputs: str = "float[n,{width}] x", activations: str = "dynamic8", width: int = WIDTH
) -> ir.Model:
    """A graph of ``MatMul(x, up)`` and ``MatMul(h, down)`` with biases b and c, quantized; it outputs y."""
    constants: Mapping[str, np.ndarray] = {
        "up": graphs.weights(width, HIDDEN, seed=1),
        "down": graphs.weights(HIDDEN, width, seed=2),
        "b": graphs.weights(HIDDEN, seed=3),
        "c": graphs.weights(width, seed=4),
        "half": np.array(0.5, np.float32),
        "one": np.array(1, np.float32),
        "root2": np.array(2**0.5, np.float32),
    }
    words = set(re.findall(r"\w+", text))
    header = f"agraph ({inputs.format(width=width)}) => (float[n,{width}] y)"
    model = graphs.graph(f"{header} {{{text}}}", {name: constants[name] for name in constants.keys() & words})
    model.graph.opset_imports[""] = 21
    Quantize(weights=4, first_last=4, method="shift", activations=activations).rewrite(model, Context())
    return model
