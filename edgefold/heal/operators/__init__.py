# SPDX-License-Identifier: Apache-2.0
"""ONNX operators as torch computes and differentiates them, one family a file.

Every operator is bound to its node once: attributes, constant operands and the forms of older opsets are resolved then,
and what remains is a kernel over torch tensors. Nothing is computed in place, so every step can be differentiated
twice.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgefold.heal.operators import (
    activations,
    attention,
    control_flow,
    convolution,
    elementwise,
    generators,
    indexing,
    l1_normalization,
    layout,
    normalization,
    pooling,
    products,
    quantization,
    recurrent,
    reductions,
    resizing,
    shift,
)
from edgefold.heal.operators.node import Binding

_STANDARD: Mapping[str, Binding] = {
    **activations.OPERATORS,
    **attention.OPERATORS,
    **control_flow.OPERATORS,
    **convolution.OPERATORS,
    **elementwise.OPERATORS,
    **generators.OPERATORS,
    **indexing.OPERATORS,
    **layout.OPERATORS,
    **normalization.OPERATORS,
    **pooling.OPERATORS,
    **products.OPERATORS,
    **quantization.OPERATORS,
    **recurrent.OPERATORS,
    **reductions.OPERATORS,
    **resizing.OPERATORS,
}

OPERATORS: Mapping[tuple[str, str], Binding] = {
    **{("", name): binding for name, binding in _STANDARD.items()},
    **{("ai.edgefold", name): binding for name, binding in shift.OPERATORS.items()},
    **{("ai.edgefold", name): binding for name, binding in l1_normalization.OPERATORS.items()},
    **{("ai.onnx.ml", name): binding for name, binding in indexing.ML_OPERATORS.items()},
}
"""(domain, operator) -> its binding; the standard domain is ''."""

READ_AS_NUMBERS: Mapping[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Expand": (1,),
    "If": (0,),
    "Loop": (0, 1),
    "OneHot": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
    **{name: (1,) for name in reductions.OPERATORS if name.startswith("Reduce")},
}
"""Operands that kernels turn into Python numbers: they stay on the CPU, where reading them waits for no device."""
