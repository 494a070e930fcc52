# SPDX-License-Identifier: Apache-2.0
"""If, Loop and Scan: what enters a body, comes out of it and enters it again goes together, axis by axis."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgefold.passes.pruning.groups import runs_of
from edgefold.passes.pruning.rules.site import Axes, OpaqueError, Rule, Site

_UNSEEN = "a body of it was not run at any size that was tried, so what that reads and gives stays"
_DIFFER = "a state, or what branches give, changes its length"
_STEPS = "its steps"


def if_(site: Site) -> Sequence[Axes | None]:
    """Both branches give what the node gives."""
    then, otherwise = (site.body(name, (), _UNSEEN) for name in ("then_branch", "else_branch"))
    if then is None or otherwise is None:
        return [_apart(site, index, then or otherwise) for index in range(len(site.node.outputs))]
    pairs = zip(then, otherwise, strict=True)
    return [_joined(site, pair, _seen(site, value)) for value, pair in zip(site.node.outputs, pairs, strict=True)]


def loop(site: Site) -> Sequence[Axes | None]:
    """States enter, come back and leave; every scan output gets a first axis of steps."""
    body, states = _body(site), site.inputs[2:]
    entered = _entered(site, states, body.inputs[2:])
    counters = [_frozen(site, _seen(site, value)) for value in body.inputs[:2]]
    given = site.body("body", [*counters, *entered], _UNSEEN) or ()
    return _left(site, entered, given[1:], [0] * (len(given) - 1 - len(states)))


def scan(site: Site) -> Sequence[Axes | None]:
    """States as of a Loop; scan inputs lose the axis of steps, scan outputs get one."""
    body, count = _body(site), site.integer("num_scan_inputs", 0)
    carried = len(site.inputs) - count
    if site.opset < 9 or len(body.inputs) != len(site.inputs):
        raise OpaqueError("it is a Scan as before opset 9; convert the model to a newer opset")
    axes = site.integers("scan_input_axes") or (0,) * count
    slices = [_without(site, scanned, axis) for scanned, axis in zip(site.inputs[carried:], axes, strict=True)]
    entered = _entered(site, site.inputs[:carried], body.inputs[:carried])
    given = site.body("body", [*entered, *slices], _UNSEEN) or ()
    outputs = len(given) - carried
    return _left(site, entered, given, site.integers("scan_output_axes") or (0,) * outputs)


def _body(site: Site) -> ir.Graph:
    if runs_of(str(site.node.name), "body") not in site.trace.shapes:
        raise OpaqueError(_UNSEEN)
    return site.node.attributes["body"].as_graph()


def _entered(site: Site, states: Sequence[Axes | None], inputs: Sequence[ir.Value]) -> list[Axes | None]:
    """States as the body sees them, which may differ from how they begin."""
    return [_joined(site, (state,), _seen(site, value)) for state, value in zip(states, inputs, strict=True)]


def _left(
    site: Site, entered: Sequence[Axes | None], given: Sequence[Axes | None], axes: Sequence[int]
) -> list[Axes | None]:
    """States and scan outputs as the node gives them."""
    outputs, carried = site.node.outputs, len(entered)
    result = [
        _joined(site, pair, _seen(site, value)) for value, *pair in zip(outputs, entered, given[:carried], strict=False)
    ]
    for value, piece, axis in zip(outputs[carried:], given[carried:], axes, strict=True):
        shape = _seen(site, value)
        if shape is None:
            result.append(_joined(site, (piece,), None))
            continue
        axis %= len(shape)
        inner = _joined(site, (piece,), (*shape[:axis], *shape[axis + 1 :])) or ()
        result.append((*inner[:axis], site.frozen(shape[axis], _STEPS), *inner[axis:]))
    return result


def _without(site: Site, scanned: Axes | None, axis: int) -> Axes | None:
    if scanned is None:
        return None
    axis %= len(scanned)
    site.freeze(scanned[axis], _STEPS)
    return (*scanned[:axis], *scanned[axis + 1 :])


def _apart(site: Site, index: int, given: Sequence[Axes | None] | None) -> Axes | None:
    """An output of which one branch, or both, are not known."""
    if given is not None:
        site.freeze_all(given[index] or (), _UNSEEN)
    shape = _seen(site, site.node.outputs[index])
    return None if shape is None else tuple(site.frozen(length, _UNSEEN) for length in shape)


def _joined(site: Site, values: Sequence[Axes | None], shape: tuple[int, ...] | None) -> Axes | None:
    """Values that stand for each other: axes of the traced length go together, the others stay as they are."""
    if shape is None or any(axes is None or len(axes) != len(shape) for axes in values):
        for axes in values:
            site.freeze_all(axes or (), _DIFFER)
        return _frozen(site, shape)
    result = []
    for axis, length in enumerate(shape):
        first, *others = [axes[axis] for axes in values if axes is not None]
        if all(len(labels) == length for labels in (first, *others)):
            for labels in others:
                site.labels.union(first, labels)
            result.append(first)
        else:
            for labels in (first, *others):
                site.freeze(labels, _DIFFER)
            result.append(site.frozen(length, _DIFFER))
    return tuple(result)


def _frozen(site: Site, shape: tuple[int, ...] | None) -> Axes | None:
    return None if shape is None else tuple(site.frozen(length, _DIFFER) for length in shape)


def _seen(site: Site, value: ir.Value) -> tuple[int, ...] | None:
    return site.trace.shapes.get(str(value.name))


CONTROL_FLOW: dict[str, Rule] = {"If": if_, "Loop": loop, "Scan": scan}
