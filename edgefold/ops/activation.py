# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  (operators are named as ONNX names them)
# mypy: disable-error-code="untyped-decorator"
"""The activation functions that operators of ``ai.edgefold`` have inside, over standard operators."""

from __future__ import annotations

from onnxscript import FLOAT, script
from onnxscript import opset21 as op

from edgefold.ops.unpack import EDGEFOLD

ACTIVATION_KINDS = ("clip", "sigmoid", "hard-sigmoid", "tanh", "swish", "hard-swish", "gelu", "gelu-tanh", "leaky-relu")
"""Names of the numbers that the attribute `function` takes, in the order of runtime/kernels/activation."""


@script(EDGEFOLD)
def Activation(x: FLOAT[...], function: int, alpha: float, beta: float) -> FLOAT[...]:
    """An activation function, chosen by number.

    Inputs:
      x: float32 of any shape.

    Attributes:
      function: 0 clip to [alpha, beta] (Relu: 0 and infinity); 1 sigmoid; 2 hard sigmoid
        ``clip(alpha * x + beta, 0, 1)``; 3 tanh; 4 swish ``x * sigmoid(alpha * x)``; 5 hard swish, x times the hard
        sigmoid; 6 gelu; 7 gelu with tanh; 8 leaky relu, alpha times x below 0, where alpha is from -1 to 1.
      alpha, beta: of the kinds that have them.

    Output:
      float32, the shape of x.
    """
    kind = op.Constant(value_int=function)
    a = op.Constant(value_float=alpha)
    b = op.Constant(value_float=beta)
    if op.Equal(kind, op.Constant(value_int=0)):
        y = op.Clip(x, a, b)
    elif op.Equal(kind, op.Constant(value_int=1)):
        y = op.Sigmoid(x)
    elif op.Equal(kind, op.Constant(value_int=2)):
        y = op.Clip(op.Add(op.Mul(x, a), b), op.Constant(value_float=0.0), op.Constant(value_float=1.0))
    elif op.Equal(kind, op.Constant(value_int=3)):
        y = op.Tanh(x)
    elif op.Equal(kind, op.Constant(value_int=4)):
        y = op.Mul(x, op.Sigmoid(op.Mul(x, a)))
    elif op.Equal(kind, op.Constant(value_int=5)):
        line = op.Add(op.Mul(x, a), b)
        y = op.Mul(x, op.Clip(line, op.Constant(value_float=0.0), op.Constant(value_float=1.0)))
    elif op.Equal(kind, op.Constant(value_int=6)):
        y = op.Gelu(x)
    elif op.Equal(kind, op.Constant(value_int=8)):
        y = op.Where(op.Less(x, op.Constant(value_float=0.0)), op.Mul(x, a), x)
    else:
        y = op.Gelu(x, approximate="tanh")
    return y
