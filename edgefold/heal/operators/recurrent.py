# SPDX-License-Identifier: Apache-2.0
"""LSTM, GRU and RNN, step by step: torch's own kernels have another order of gates and know fewer forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgefold.heal.operators.node import Binding, BoundNode, Kernel, UnsupportedNodeError

_Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""From a step's input, already multiplied by W, and the state to the next state, whose first entry is the output."""

_Activation = Callable[[Tensor], Tensor]

_ACTIVATIONS: Mapping[str, _Activation] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, eq=False)
class _Operands:
    """Weights of one direction.

    Attributes:
        w: [gates * hidden, inputs].
        r: [gates * hidden, hidden].
        wb, rb: biases [gates * hidden].
        p: peepholes [3 * hidden] of an LSTM, or None.
    """

    w: Tensor
    r: Tensor
    wb: Tensor
    rb: Tensor
    p: Tensor | None


def _recurrent(
    gates: int, states: int, make_cell: Callable[[BoundNode, list[_Activation], _Operands], _Cell]
) -> Binding:
    def bind(node: BoundNode) -> Kernel:
        direction = node.text("direction", "forward")
        backward = [direction == "reverse"] if direction != "bidirectional" else [False, True]
        activations = _activations(node, gates, len(backward))
        batch_first = bool(node.integer("layout", 0))
        if "clip" in node.node.attributes:
            raise UnsupportedNodeError("clips inside its cell")

        def kernel(x: Tensor, w: Tensor, r: Tensor, *rest: Any) -> tuple[Tensor, ...]:
            bias, lengths, *initial = [*rest, None, None, None, None, None][:4]
            peepholes = rest[4] if len(rest) > 4 else None
            x = x.transpose(0, 1) if batch_first else x
            outputs, finals = [], []
            for number, reverse in enumerate(backward):
                both = x.new_zeros(2 * w.shape[1]) if bias is None else bias[number]
                p = None if peepholes is None else peepholes[number]
                wb, rb = both.chunk(2)
                operands = _Operands(w[number], r[number], wb, rb, p)
                state = tuple(_initial(given, number, batch_first, x, r.shape[-1]) for given in initial[:states])
                cell = make_cell(node, activations[number], operands)
                output, final = _unrolled(x, operands, cell, state, lengths, reverse)
                outputs.append(output)
                finals.append(final)
            y = torch.stack(outputs, 1)
            last = [torch.stack([final[i] for final in finals]) for i in range(states)]
            if batch_first:
                return (y.permute(2, 0, 1, 3), *[state.transpose(0, 1) for state in last])
            return (y, *last)

        return kernel

    return bind


def _activations(node: BoundNode, gates: int, directions: int) -> list[list[_Activation]]:
    defaults = {4: ["Sigmoid", "Tanh", "Tanh"], 3: ["Sigmoid", "Tanh"], 1: ["Tanh"]}[gates]
    attribute = node.node.attributes.get("activations")
    names = defaults * directions if attribute is None else list(attribute.as_strings())
    unknown = [name for name in names if name.lower() not in _ACTIVATIONS]
    if unknown:
        raise UnsupportedNodeError(f"uses the activation {unknown[0]} inside its cell")
    found = [_ACTIVATIONS[name.lower()] for name in names]
    each = len(defaults)
    return [found[i * each : (i + 1) * each] for i in range(directions)]


def _initial(given: Tensor | None, direction: int, batch_first: bool, x: Tensor, hidden: int) -> Tensor:
    if given is None:
        return x.new_zeros(x.shape[1], hidden)
    return given[:, direction] if batch_first else given[direction]


def _unrolled(
    x: Tensor, operands: _Operands, cell: _Cell, state: tuple[Tensor, ...], lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    steps = x.shape[0]
    projected = functional.linear(x, operands.w, operands.wb)  # all steps in one product
    outputs: list[Tensor] = [x.new_zeros(0)] * steps
    for step in reversed(range(steps)) if reverse else range(steps):
        new = cell(projected[step], state)
        if lengths is None:
            state, outputs[step] = new, new[0]
            continue
        alive = (step < lengths)[:, None]
        state = tuple(torch.where(alive, a, b) for a, b in zip(new, state, strict=True))
        outputs[step] = torch.where(alive, new[0], torch.zeros_like(new[0]))
    return torch.stack(outputs), state


def _lstm_cell(node: BoundNode, activations: list[_Activation], weights: _Operands) -> _Cell:
    gate, update, out = activations
    coupled = bool(node.integer("input_forget", 0))
    peephole_i, peephole_o, peephole_f = weights.p.chunk(3) if weights.p is not None else (0.0, 0.0, 0.0)

    def cell(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = state
        i, o, f, u = (x + functional.linear(h, weights.r, weights.rb)).chunk(4, -1)
        i = gate(i + peephole_i * c)
        f = 1 - i if coupled else gate(f + peephole_f * c)
        c = f * c + i * update(u)
        return gate(o + peephole_o * c) * out(c), c

    return cell


def _gru_cell(node: BoundNode, activations: list[_Activation], weights: _Operands) -> _Cell:
    gate, update = activations
    before = bool(node.integer("linear_before_reset", 0))
    hidden = weights.r.shape[-1]

    def cell(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h = state[0]
        xz, xr, xh = x.chunk(3, -1)
        z, r = (
            torch.cat([xz, xr], -1) + functional.linear(h, weights.r[: 2 * hidden], weights.rb[: 2 * hidden])
        ).chunk(2, -1)
        z, r = gate(z), gate(r)
        rh, bias = weights.r[2 * hidden :], weights.rb[2 * hidden :]
        candidate = xh + (r * functional.linear(h, rh, bias) if before else functional.linear(r * h, rh, bias))
        return ((1 - z) * update(candidate) + z * h,)

    return cell


def _plain_cell(node: BoundNode, activations: list[_Activation], weights: _Operands) -> _Cell:
    del node
    return lambda x, state: (activations[0](x + functional.linear(state[0], weights.r, weights.rb)),)


OPERATORS: Mapping[str, Binding] = {
    "GRU": _recurrent(3, 1, _gru_cell),
    "LSTM": _recurrent(4, 2, _lstm_cell),
    "RNN": _recurrent(1, 1, _plain_cell),
}
