# SPDX-License-Identifier: Apache-2.0
"""Runs a model at one of the several weight widths that its file stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgefold.files.loading import LoadedModel

# The operator library reads this session configuration entry when it is registered: set it before.
WEIGHT_BITS = "edgefold.weight_bits"


def stored_widths(loaded: LoadedModel) -> list[int]:
    """The widths at which the nodes of several widths can run, widest first; empty where there is none."""
    widths: set[int] = set()
    for node in loaded.model.graph.all_nodes():
        narrow = node.attributes.get_ints("narrow_bits", ()) if node.domain == "ai.edgefold" else ()
        if narrow:
            widths |= {node.attributes.get_int("bits", 0), *narrow}
    return sorted(widths, reverse=True)


def at_width(loaded: LoadedModel, bits: int) -> dict[str, str]:
    """The session configuration that runs a model at ``bits``; nodes of one width keep theirs.

    Raises:
        UsageError: the model does not store this width.
    """
    widths = stored_widths(loaded)
    if bits not in widths:
        there = f"stores weights of {', '.join(map(str, widths))} bits" if widths else "stores one width"
        raise UsageError(f"weight-bits {bits}: {loaded.path} {there}; compress with quantize.widths to store several")
    return {WEIGHT_BITS: str(bits)}


def at_widths(models: Sequence[LoadedModel], bits: Sequence[int]) -> dict[Path, dict[int, dict[str, str]]]:
    """For each of the models that stores several widths: the session configuration of each width asked for.

    Raises:
        UsageError: widths are asked for and no model stores several, or one does not store this width.
    """
    several = [loaded for loaded in models if stored_widths(loaded)]
    if bits and not several:
        raise UsageError("weight-bits: no model stores several widths; compress with quantize.widths")
    return {loaded.path: {one: at_width(loaded, one) for one in bits} for loaded in several}
