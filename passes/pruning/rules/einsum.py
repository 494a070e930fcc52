# SPDX-License-Identifier: Apache-2.0
"""Einsum: a letter is an axis wherever it stands, and is summed over where the result lacks it."""

from __future__ import annotations

import collections
import string
from collections.abc import Sequence

from edgefold.passes.pruning.groups import AxisKey, IntArray, Role
from edgefold.passes.pruning.rules.site import Axes, OpaqueError, Rule, Site


def einsum(site: Site) -> Sequence[Axes]:
    """Every letter's labels agree among the operands; an ellipsis stands for letters aligned at their right end."""
    terms, result = _parsed(site)
    axes: dict[str, list[IntArray]] = {}
    keys: dict[str, AxisKey] = {}
    for index, term in enumerate(terms):
        for place, letter in enumerate(term):
            axes.setdefault(letter, []).append(site.axes(index)[place])
            keys.setdefault(letter, site.keys(index, place)[0])
    labels = {letter: site.broadcast([(one,) for one in found])[0] for letter, found in axes.items()}
    uses = collections.Counter(letter for term in terms for letter in set(term))
    for index, term in enumerate(terms):
        for place, letter in enumerate(term):
            if letter not in result:
                site.role(index, place, Role.READER)
            elif uses[letter] == 1:
                site.role(index, place, Role.WRITER)
    for letter in {letter for term in terms for letter in term if term.count(letter) > 1}:
        site.freeze(labels[letter], "it takes a diagonal")
    summed = [letter for letter in keys if letter not in result]
    if len(terms) > 1:
        site.contraction((*site.keys(0, output=True), *(keys[letter] for letter in summed)))
    return [tuple(labels[letter] for letter in result)]


def _parsed(site: Site) -> tuple[list[str], str]:
    """Operands and result, as letters only."""
    equation = site.node.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(site.inputs):
        raise OpaqueError(f"the equation {equation} does not fit its operands")
    if not arrow:
        letters = collections.Counter(left.replace("...", "").replace(",", ""))
        result = ("..." if "..." in left else "") + "".join(sorted(one for one, uses in letters.items() if uses == 1))
    spare = [letter for letter in string.ascii_letters if letter not in equation]
    ranks = [len(site.axes(index)) - len(term.replace("...", "")) for index, term in enumerate(terms)]
    longest = max((rank for rank, term in zip(ranks, terms, strict=True) if "..." in term), default=0)
    hidden = "".join(spare[:longest])
    terms = [term.replace("...", hidden[longest - rank :]) for rank, term in zip(ranks, terms, strict=True)]
    return terms, result.replace("...", hidden)


EINSUM: dict[str, Rule] = {"Einsum": einsum}
