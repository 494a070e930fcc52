# SPDX-License-Identifier: Apache-2.0
"""Graphs of quantized convolutions as text: `ShiftConv` written short, with seeded weights behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from graphs import graph

from edgefold.ops import add_functions
from edgefold.passes.quantization.packing import pack_codes, pack_selectors

_CONV = re.compile(r"(\w+) = Conv\((\w+), (\d+), (\d+)(?:, (.*?))?\)")


def conv_graph(text: str, constants: Mapping[str, npt.NDArray[np.generic]] | None = None) -> ir.Model:
    """A model from ONNX text in which ``y = Conv(x, 8, 16, kernel=3, scale=0.1)`` is a ShiftConv of 8 to 16 channels.

    Options: dims (2), kernel (1), stride (1), dilation (1), group (1), scale (0.05), low (0), high (255), shift (0),
    pad (as much as leaves the size), causal (0): whether all of the padding lies at the beginning.
    """
    tensors = dict(constants or {})

    def written(match: re.Match[str]) -> str:
        y, x, channels_in, channels_out, options = match.groups()
        given = dict(option.split("=") for option in (options or "").split(", ") if option)
        return _shift_conv(tensors, y, x, int(channels_in), int(channels_out), given)

    body = _CONV.sub(written, text)
    model = graph(body, {})
    for name, array in tensors.items():
        value = next((one for node in model.graph for one in node.inputs if one is not None and one.name == name), None)
        if value is not None:
            value.const_value = ir.tensor(array, name=name)
            value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
            model.graph.register_initializer(value)
    add_functions(model)
    return model


def _shift_conv(
    tensors: dict[str, npt.NDArray[np.generic]], y: str, x: str, inputs: int, outputs: int, given: Mapping[str, str]
) -> str:
    kernel, stride, group = (int(given.get(name, 1)) for name in ("kernel", "stride", "group"))
    rng = np.random.default_rng(len(tensors))
    dims, dilation = int(given.get("dims", 2)), int(given.get("dilation", 1))
    k = inputs // group * kernel**dims
    names = [f"{y}_{name}" for name in ("codes", "selectors", "table", "scales", "bias", "x_scale", "x_shifts")]
    arrays = [
        pack_codes(rng.integers(0, 256, (k, outputs)).astype(np.uint8), 8),
        pack_selectors(np.zeros((1, outputs), np.uint8), tables=1),
        np.maximum(np.arange(-128, 128), -127).astype(np.int8)[None],
        rng.uniform(0.5, 2, outputs).astype(np.float32) / np.float32(80 * np.sqrt(k)),
        rng.standard_normal(outputs).astype(np.float32),
        np.array([float(given.get("scale", 0.05))], np.float32),
        np.array([int(given.get("shift", 0))], np.uint8),
    ]
    tensors.update(zip(names, arrays, strict=True))
    reach = (kernel - 1) * dilation
    pad = int(given.get("pad", reach // 2))
    begin, end = (reach, 0) if int(given.get("causal", 0)) else (pad, pad)
    attributes = (
        f"kernel_shape = {[kernel] * dims}, strides = {[stride] * dims}, dilations = {[dilation] * dims}, "
        f"group = {group}, pads = {[begin] * dims + [end] * dims}, k = {k}, bits = 8, layout = 1, "
        f"activation_low = {given.get('low', 0)}, activation_high = {given.get('high', 255)}"
    )
    return f"{y} = ai.edgefold.ShiftConv <{attributes}> ({', '.join([x, *names])})"
