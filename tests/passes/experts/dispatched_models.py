# SPDX-License-Identifier: Apache-2.0
"""Small models with one layer in dispatch form, and the same layer in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from graphs import Array, graph, weights

from edgefold.passes.experts.activation import Expression, evaluate, named
from edgefold.passes.experts.dispatch import Expert, Product, write_dispatch


def experts(count: int, d: int = 8, f: int = 6, *, gated: bool = True, bias: bool = False) -> list[Expert]:
    """Random experts of width f for tokens of d elements."""

    def product(rows: int, columns: int, seed: int) -> Product:
        return Product(weights(rows, columns, seed=seed) / 3, weights(columns, seed=seed + 500) if bias else None)

    return [
        Expert(
            tuple(product(d, f, 10 * number + one) for one in range(1 + gated)),
            product(f, d, 10 * number + 5),
        )
        for number in range(count)
    ]


def dispatched(
    members: Sequence[Expert], activation: Expression | None = None, *, axes: str = "T, 8", top: int = 2
) -> ir.Model:
    """A router with softmax and the top `top`, written out, before a layer in dispatch form."""
    gated = len(members[0].inputs) == 2
    lead = axes.rpartition(",")[0]
    model = graph(
        f"""model (float[{axes}] x) => (float[{axes}] y) {{
            logits = MatMul(x, router)
            scores = Softmax <axis = -1>(logits)
            values, chosen = TopK <axis = -1>(scores, top)
            total = ReduceSum <keepdims = 1>(values, last)
            normalized = Div(values, total)
            size = Shape(scores)
            empty = ConstantOfShape(size)
            gates = ScatterElements <axis = -1>(empty, chosen, normalized)
            y = Identity(x)
        }}""",
        {
            "router": weights(8, len(members), seed=99),
            "top": np.array([top], np.int64),
            "last": np.array([-1], np.int64),
        },
    )
    *router, end = model.graph
    gates = router[-1].outputs[0]
    gates.type = ir.TensorType(ir.DataType.FLOAT)
    gates.shape = ir.Shape([*(part.strip() for part in lead.split(",")), len(members)])
    shown = activation or named("silu", gated=gated)
    output = write_dispatch(model.graph, "moe", model.graph.inputs[0], gates, members, shown, after=router[-1])
    end.replace_input_with(0, output)
    return model


def forward(members: Sequence[Expert], activation: Expression, x: Array, gates: Array) -> Array:
    """The layer in numpy, every expert on every token."""
    return np.sum(
        [
            gates[:, [number]]
            * _product(expert.down, evaluate(activation, [_product(one, x) for one in expert.inputs]))
            for number, expert in enumerate(members)
        ],
        axis=0,
    )


def _product(product: Product, x: Array) -> Array:
    return x @ product.weight + (0 if product.bias is None else product.bias)
