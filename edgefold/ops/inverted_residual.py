# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802, ARG001  (operators are named as ONNX names them; `layout` is for the kernels)
# mypy: disable-error-code="untyped-decorator"
"""The meaning of ``FusedInvertedResidual``: three `FusedConvBlock`, one behind the other."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto, helper
from onnxscript import FLOAT, INT8, UINT8, script
from onnxscript import opset21 as op
from onnxscript.onnx_types import TensorType

from edgefold.ops.conv_block import FusedConvBlock
from edgefold.ops.images import StoredImage
from edgefold.ops.unpack import EDGEFOLD

_NO_SHIFTS = helper.make_tensor("no_shifts", TensorProto.UINT8, [1], [0])
_NO_RESIDUAL = helper.make_tensor("no_residual", TensorProto.UINT8, [1, 1, 1, 1], [0])


@script(EDGEFOLD)
def FusedPointwise(
    x: TensorType,
    codes: UINT8[...],
    selectors: UINT8[...],
    table: INT8[...],
    scales: FLOAT[...],
    bias: FLOAT[...],
    x_scale: FLOAT[...],
    residual: TensorType,
    residual_scale: FLOAT[...],
    y_scale: FLOAT[...],
    k: int,
    bits: int,
    x_low: int,
    x_high: int,
    function: int,
    alpha: float,
    beta: float,
    residual_at: int,
    residual_dtype: int,
    y_low: int,
    y_high: int,
    y_dtype: int,
    y_perm: Sequence[int],
    y_packed: int,
) -> TensorType:
    """A `FusedConvBlock` of a 1x1 convolution that reads codes."""
    return FusedConvBlock(
        x,
        codes,
        selectors,
        table,
        scales,
        bias,
        x_scale,
        op.Constant(value=_NO_SHIFTS),
        residual,
        residual_scale,
        y_scale,
        kernel_shape=[1, 1],
        strides=[1, 1],
        pads=[0, 0, 0, 0],
        dilations=[1, 1],
        group=1,
        k=k,
        bits=bits,
        activation_low=x_low,
        activation_high=x_high,
        x_codes=1,
        x_perm=[0, 3, 1, 2],
        function=function,
        alpha=alpha,
        beta=beta,
        residual_at=residual_at,
        residual_dtype=residual_dtype,
        y_low=y_low,
        y_high=y_high,
        y_dtype=y_dtype,
        y_perm=y_perm,
        y_packed=y_packed,
    )


@script(EDGEFOLD)
def FusedInvertedResidual(
    x: TensorType,
    expand_codes: UINT8[...],
    expand_selectors: UINT8[...],
    expand_table: INT8[...],
    expand_scales: FLOAT[...],
    expand_bias: FLOAT[...],
    depthwise_codes: UINT8[...],
    depthwise_selectors: UINT8[...],
    depthwise_table: INT8[...],
    depthwise_scales: FLOAT[...],
    depthwise_bias: FLOAT[...],
    project_codes: UINT8[...],
    project_selectors: UINT8[...],
    project_table: INT8[...],
    project_scales: FLOAT[...],
    project_bias: FLOAT[...],
    x_scale: FLOAT[...],
    expand_scale: FLOAT[...],
    depthwise_scale: FLOAT[...],
    y_scale: FLOAT[...],
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    expand_k: int,
    expand_bits: int,
    expand_function: int,
    expand_alpha: float,
    expand_beta: float,
    expand_low: int,
    expand_high: int,
    expand_dtype: int,
    depthwise_k: int,
    depthwise_bits: int,
    depthwise_function: int,
    depthwise_alpha: float,
    depthwise_beta: float,
    depthwise_low: int,
    depthwise_high: int,
    depthwise_dtype: int,
    project_k: int,
    project_bits: int,
    project_function: int,
    project_alpha: float,
    project_beta: float,
    activation_low: int,
    activation_high: int,
    x_codes: int,
    x_dtype: int,
    x_perm: Sequence[int],
    residual: int,
    y_low: int,
    y_high: int,
    y_dtype: int,
    y_perm: Sequence[int],
    x_packed: int = 0,
    y_packed: int = 0,
    layout: int = 1,
) -> TensorType:
    """An inverted residual block: `FusedConvBlock` 1x1, depthwise and 1x1, whose inner tensors never exist whole.

    The first one expands x to ``group`` channels, the last one brings them back and, where ``residual`` is 1, adds the
    codes of x before its activation (MobileNetV2, arXiv 1801.04381, section 3).

    Inputs:
      x: uint8 or int8 codes [B, H, W, C], or float32 [B, C, H, W] or [B, H, W, C].
      expand_*, depthwise_*, project_*: codes, selectors, table, scales and bias, as in `ShiftConv`.
      x_scale, expand_scale, depthwise_scale, y_scale: float32 [1], positive: of the codes of x, between and of y.

    Attributes:
      kernel_shape, strides, pads, dilations, group: of the depthwise convolution.
      expand_*, depthwise_*, project_*: k and bits as in `ShiftConv`; function, alpha and beta as in `FusedConvBlock`;
        low, high and dtype of the codes that the block gives, as y_low, y_high and y_dtype there.
      activation_low, activation_high: the range of the codes of x.
      x_codes, x_perm, x_packed, y_low, y_high, y_dtype, y_perm, y_packed: as in `FusedConvBlock`.
      x_dtype: 2 (uint8) or 3 (int8), what the codes of x are.
      residual: 1 where x is added.
      layout: version of the packed layout.

    Output:
      uint8 or int8 codes [B, H', W', M], or float32 [B, M, H', W'] or [B, H', W', M].
    """
    values = StoredImage(x, packed=x_packed, perm=x_perm, low=activation_low)
    low = op.Cast(op.Constant(value_int=activation_low), to=TensorProto.FLOAT)
    high = op.Cast(op.Constant(value_int=activation_high), to=TensorProto.FLOAT)
    quantized = op.Clip(op.Round(op.Div(values, x_scale)), low, high)
    given = op.Equal(op.Constant(value_int=x_codes), op.Constant(value_int=1))
    x_quantized = op.Transpose(op.Cast(op.Where(given, values, quantized), to=x_dtype), perm=[0, 2, 3, 1])
    nothing = op.Cast(op.Constant(value=_NO_RESIDUAL), to=x_dtype)
    if op.Equal(op.Constant(value_int=residual), op.Constant(value_int=1)):
        added = op.Identity(x_quantized)
    else:
        added = op.Identity(nothing)
    # One line a group of operands.
    # fmt: off
    expanded = FusedPointwise(
        x_quantized,
        expand_codes, expand_selectors, expand_table, expand_scales, expand_bias, x_scale,
        nothing, x_scale, expand_scale,
        k=expand_k, bits=expand_bits, x_low=activation_low, x_high=activation_high,
        function=expand_function, alpha=expand_alpha, beta=expand_beta,
        residual_at=0, residual_dtype=x_dtype,
        y_low=expand_low, y_high=expand_high, y_dtype=expand_dtype, y_perm=[0, 2, 3, 1], y_packed=0,
    )
    filtered = FusedConvBlock(
        expanded,
        depthwise_codes, depthwise_selectors, depthwise_table, depthwise_scales, depthwise_bias, expand_scale,
        op.Constant(value=_NO_SHIFTS), nothing, x_scale, depthwise_scale,
        kernel_shape=kernel_shape, strides=strides, pads=pads, dilations=dilations, group=group,
        k=depthwise_k, bits=depthwise_bits,
        activation_low=expand_low, activation_high=expand_high, x_codes=1, x_perm=[0, 3, 1, 2],
        function=depthwise_function, alpha=depthwise_alpha, beta=depthwise_beta,
        residual_at=0, residual_dtype=x_dtype,
        y_low=depthwise_low, y_high=depthwise_high, y_dtype=depthwise_dtype, y_perm=[0, 2, 3, 1],
    )
    return FusedPointwise(
        filtered,
        project_codes, project_selectors, project_table, project_scales, project_bias, depthwise_scale,
        added, x_scale, y_scale,
        k=project_k, bits=project_bits, x_low=depthwise_low, x_high=depthwise_high,
        function=project_function, alpha=project_alpha, beta=project_beta,
        residual_at=residual, residual_dtype=x_dtype,
        y_low=y_low, y_high=y_high, y_dtype=y_dtype, y_perm=y_perm, y_packed=y_packed,
    )
    # fmt: on
