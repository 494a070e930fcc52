# SPDX-License-Identifier: Apache-2.0
"""LSTM, GRU and RNN: a hidden unit is one row of every gate, one column of the recurrent weights, one state entry.

Both directions of a bidirectional layer share the axis of hidden units, so that a unit goes in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefold.passes.pruning.groups import Role
from edgefold.passes.pruning.rules.site import Axes, Rule, Site

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(site: Site) -> Sequence[Axes | None]:
    """X [T, B, I], W [D, gates H, I], R [D, gates H, H], B [D, 2 gates H], states [D, B, H], peepholes [D, 3H]."""
    x, w, r = site.axes(0), site.axes(1), site.axes(2)
    gates, hidden = _GATES[site.node.op_type], r[2]
    site.labels.union(x[2], w[2])
    for index, repeats in ((1, gates), (2, gates), (3, 2 * gates), (7, 3)):
        if (parameter := site.optional(index)) is not None:
            site.labels.union(parameter[1], np.tile(hidden, repeats))
            site.freeze(parameter[0], "its directions")
    for index in (1, 2):
        site.role(index, 1, Role.WRITER)
        site.role(index, 2, Role.READER)
    batch_first = site.integer("layout", 0)
    time, batch = (x[1], x[0]) if batch_first else (x[0], x[1])
    site.freeze(time, "its steps in time")
    direction = site.frozen(len(w[0]), "its directions")
    state = (batch, direction, hidden) if batch_first else (direction, batch, hidden)
    if (lengths := site.optional(4)) is not None:
        site.labels.union(lengths[0], batch)
    for index in (5, 6):
        if (initial := site.optional(index)) is not None:
            site.union(initial, state)
    steps = site.keys(0, 0, 1)
    site.contraction((*steps, *site.keys(1)))
    site.contraction((*steps, *site.keys(2)))
    y = (batch, time, direction, hidden) if batch_first else (time, direction, batch, hidden)
    return [y, state, state]


RECURRENT: dict[str, Rule] = dict.fromkeys(_GATES, recurrent)
