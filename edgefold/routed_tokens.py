# SPDX-License-Identifier: Apache-2.0
"""Rows of two models side by side where an expert does not get the same tokens in both.

A layer in front that has changed moves some tokens to other experts. A row of an expert's tensor then stands for
another token than the row of that number in the original, even where the counts are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.passes._layer_inputs import Targets
from edgefold.passes.experts.routing import routed_rows

Array = np.ndarray[Any, Any]
Values = Mapping[str, Array]


class SameTokens:
    """Picks the rows of the tokens that an expert gets in both of two models.

    Attributes:
        mine: tensors of the first model inside its experts, with the tensors that hold the row numbers of their tokens.
        others: of the second.
    """

    def __init__(self, model: ir.Model, original: ir.Model) -> None:
        self.mine = routed_rows(model)
        self.others = routed_rows(original)

    def needed(self, names: Sequence[str], targets: Sequence[str]) -> tuple[list[str], list[str]]:
        """The tensors with row numbers that have to be observed beside some of both models."""
        return _numbers(names, self.mine), _numbers(targets, self.others)

    def shared(self, tensor: str, values: Values, targets: Sequence[Targets], outputs: Values) -> tuple[Values, Values]:
        """The values of both models, those of an expert cut down to the tokens that both models send there.

        Args:
            tensor: an input of a layer of the first model.
            values: of the first model, with the row numbers.
            targets: of that layer.
            outputs: values of the second model, with the row numbers.
        """
        expert, other = self.mine.get(tensor), self.others.get(targets[0].tensor)
        if expert is None or other is None:
            return values, outputs
        _, here, there = np.intersect1d(values[expert], outputs[other], assume_unique=True, return_indices=True)
        inside = {name: value[here] for name, value in values.items() if self.mine.get(name) == expert}
        beside = {name: value[there] for name, value in outputs.items() if self.others.get(name) == other}
        return {**values, **inside}, {**outputs, **beside}


def _numbers(names: Sequence[str], routes: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(routes[name] for name in names if name in routes and routes[name] not in names))
