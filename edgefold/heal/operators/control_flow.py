# SPDX-License-Identifier: Apache-2.0
"""If, Loop and Scan: their bodies are programs of their own, and gradients pass through every iteration that ran.

A kernel is called with the node's operands, then what the bodies read of the graphs around them, then the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgefold.heal.operators.node import Binding, BoundNode, Kernel, UnsupportedNodeError


def _if(node: BoundNode) -> Kernel:
    then, otherwise = node.bodies["then_branch"], node.bodies["else_branch"]

    def kernel(condition: Tensor, *around: Any) -> tuple[Tensor, ...]:
        branch = then if bool(condition) else otherwise
        return branch((), around[:-1], around[-1])

    return kernel


def _loop(node: BoundNode) -> Kernel:
    body, count = node.bodies["body"], len(node.node.inputs)
    carried = count - 2

    def kernel(*operands: Any) -> tuple[Tensor, ...]:
        limit, condition, state = operands[0], operands[1], tuple(operands[2:count])
        around, device = operands[count:-1], operands[-1]
        last = None if limit is None else int(limit)
        alive = condition is None or bool(condition)
        kept: list[tuple[Tensor, ...]] = []
        while alive and (last is None or len(kept) < last):
            number = torch.tensor(len(kept), device=device)
            going = torch.tensor(True, device=device)
            condition, *values = body((number, going, *state), around, device)
            state, alive = tuple(values[:carried]), bool(condition)
            kept.append(tuple(values[carried:]))
        return (*state, *_stacked(kept, len(node.node.outputs) - carried))

    return kernel


def _stacked(kept: list[tuple[Tensor, ...]], outputs: int) -> list[Tensor]:
    if not kept:
        return [torch.empty(0)] * outputs
    return [torch.stack(values) for values in zip(*kept, strict=True)]


def _scan(node: BoundNode) -> Kernel:
    if node.version < 9:
        raise UnsupportedNodeError("is of opset 8, which had a batch axis; raise the model's opset")
    body, count = node.bodies["body"], len(node.node.inputs)
    scanned = node.integer("num_scan_inputs", 0)
    carried = count - scanned
    results = len(node.node.outputs) - carried
    axes_in = node.integers("scan_input_axes") or [0] * scanned
    axes_out = node.integers("scan_output_axes") or [0] * results
    backwards_in = node.integers("scan_input_directions") or [0] * scanned
    backwards_out = node.integers("scan_output_directions") or [0] * results

    def kernel(*operands: Any) -> tuple[Tensor, ...]:
        state, around, device = tuple(operands[:carried]), operands[count:-1], operands[-1]
        parts = [
            tuple(reversed(x.unbind(axis))) if backwards else x.unbind(axis)
            for x, axis, backwards in zip(operands[carried:count], axes_in, backwards_in, strict=True)
        ]
        kept: list[tuple[Tensor, ...]] = []
        for part in zip(*parts, strict=True):
            values = body((*state, *part), around, device)
            state = tuple(values[:carried])
            kept.append(tuple(values[carried:]))
        columns = zip(zip(*kept, strict=True), axes_out, backwards_out, strict=True)
        return (*state, *[torch.stack(column[::-1] if back else column, axis) for column, axis, back in columns])

    return kernel


OPERATORS: Mapping[str, Binding] = {"If": _if, "Loop": _loop, "Scan": _scan}
