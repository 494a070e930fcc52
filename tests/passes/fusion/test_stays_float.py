# SPDX-License-Identifier: Apache-2.0
"""Additions, gates and means that stay float between convolutions are named with the reason."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from packed_convs import conv_graph

from edgefold.passes._ranges import Range
from edgefold.passes.base import Context
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.probing import probe

HEAD = "g (float[2, 8, 9, 10] x) => "
ONE = "(float[n, c, h, w] y)"
X = np.zeros((2, 8, 9, 10), np.float32)

IMAGE = "a = Conv(x, 8, 16) b = HardSwish(a)"
GATE = "p = GlobalAveragePool(b) s = Conv(p, 16, 16) v = HardSigmoid(s)"
GATED = f"{IMAGE} {GATE} m = Mul(b, v)"
END = "y = Conv(m, 16, 8)"
SUM = "c = Conv(b, 16, 16, kernel=3) d = Add(c, b)"
SHORTCUT = "c = Conv(b, 16, 16, scale=0.02) s = Conv(b, 16, 16, scale=0.02) d = Add(c, s)"


class Ranges:
    """Calibration that has seen values from -8 to 17 everywhere."""

    def ranges(self, tensors: list[str]) -> dict[str, Range]:
        seen = Range()
        seen.add(np.linspace(-8, 17, 1000, dtype=np.float32))
        return dict.fromkeys(tensors, seen)


def skips(
    text: str, exclude: Iterable[str] = (), *, calibrated: bool = True, probed: bool = True, **options: object
) -> dict[str, str]:
    """What stays float, by node; convolutions aside."""
    model = conv_graph(HEAD + text)
    context = Context(
        probe=(lambda one: probe(one, feeds={"x": X}, seed=0)) if probed else None,
        calibration=Ranges() if calibrated else None,  # type: ignore[arg-type]
        exclude=tuple(exclude),
    )
    notes = FuseBlocks(kinds=("conv-region",), **options).rewrite(model, context)  # type: ignore[arg-type]
    convs = {node.outputs[0].name for node in conv_graph(HEAD + text).graph if node.op_type == "ShiftConv"}
    return {one.node: str(one).partition(": ")[2] for one in notes.skips if one.node not in convs}


REASONS = {
    "everything is taken": (f"{ONE} {{ {GATED} {END} }}", {}),
    "an output": (
        f"(float[n, c, h, w] y, float[n, d, h, w] b) {{ {GATED} {END} }}",
        {"m": "the value is a graph output (its image)", "p": "the value is a graph output (its image)"},
    ),
    "something float reads the image": (
        f"(float[n, c, h, w] y, float[n, d, h, w] z) {{ {GATED} {END} z = Exp(b) }}",
        dict.fromkeys("mp", "nothing to gain (its image is read as floats by z (Exp))"),
    ),
    "something float reads the product": (
        f"{ONE} {{ {GATED} y = Exp(m) }}",
        {
            "m": "nothing to gain (its product is read as floats by y (Exp))",
            "p": "nothing to gain (its image is read as floats by m (Mul))",
        },
    ),
    "something float makes the image": (
        f"{ONE} {{ b = Exp(x) p = GlobalAveragePool(b) s = Conv(p, 8, 8) v = HardSigmoid(s) m = Mul(b, v) "
        "y = Conv(m, 8, 8) }",
        {"m": "nothing to gain (its image is made as floats by b (Exp))"},
    ),
    "the input is the image": (
        f"{ONE} {{ p = GlobalAveragePool(x) s = Conv(p, 8, 8) v = HardSigmoid(s) m = Mul(x, v) y = Conv(m, 8, 8) }}",
        {"m": "nothing to gain (its image is an input or a constant of the model)"},
    ),
    "a mean alone": (
        f"(float[n, c, h, w] p) {{ {IMAGE} p = GlobalAveragePool(b) }}",
        {"p": "nothing to gain (its image is read by nothing that wants codes)"},
    ),
    "a sum whose residual is an output": (
        f"(float[n, c, h, w] y, float[n, d, h, w] b) {{ {IMAGE} {SUM} y = Conv(d, 16, 8) }}",
        {"d": "the value is a graph output (its residual)"},
    ),
    "a sum with something float": (
        f"{ONE} {{ a = Conv(x, 8, 8) d = Add(a, x) y = Conv(d, 8, 8) }}",
        {"d": "nothing to gain (its residual is an input or a constant of the model)"},
    ),
    "a sum of what others read too": (
        f"(float[n, c, h, w] y, float[n, d, h, w] z) {{ {IMAGE} c = Conv(b, 16, 16) d = Add(b, c) y = Conv(d, 16, 8) "
        "z = Exp(c) }",
        {"d": "nothing to gain (no convolution gives its result to it alone)"},
    ),
    "a sum that broadcasts": (
        f"{ONE} {{ {IMAGE} p = GlobalAveragePool(b) c = Conv(p, 16, 16) d = Add(b, c) y = Conv(d, 16, 8) }}",
        {
            "d": "nothing to gain (its operands differ in shape)",
            "p": "nothing to gain (its image is read as floats by d (Add))",
        },
    ),
    "a concatenation with something float": (
        f"{ONE} {{ {IMAGE} g = Concat <axis = 1> (b, x) y = Conv(g, 24, 8) }}",
        {"g": "nothing to gain (what it picks from is an input or a constant of the model)"},
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_stays_float_is_named_with_the_reason(name: str) -> None:
    text, expected = REASONS[name]
    assert skips(text) == expected


def test_without_calibration() -> None:
    missing = "needs calibration data (its {} is read by no convolution that has a scale for it)"
    assert skips(f"{ONE} {{ {GATED} {END} }}", calibrated=False) == dict.fromkeys("mp", missing.format("image"))
    shortcut = skips(f"{ONE} {{ {IMAGE} {SHORTCUT} y = Conv(d, 16, 8) }}", calibrated=False)
    assert shortcut == {"d": missing.format("residual")}


def test_readers_of_several_scales_where_nothing_may_be_rounded_twice() -> None:
    several = "(its {} is wanted in codes of several scales)"
    read = "(float[n, c, h, w] y, float[n, d, h, w] z)"
    twice = f"{read} {{ {GATED} {END} z = Conv(m, 16, 8, scale=0.04) }}"
    assert skips(twice) == {}
    assert skips(twice, calibrated=False)["m"].startswith("needs calibration data (its image is read by no")
    text = f"{read} {{ {IMAGE} {SUM} y = Conv(d, 16, 8) z = Conv(b, 16, 8, scale=0.04) }}"
    assert skips(text) == {}
    assert skips(text, calibrated=False) == {"d": "needs calibration data " + several.format("residual")}


def test_residuals_that_are_to_stay_float() -> None:
    asked = "excluded by the user (residuals: float)"
    mean = "nothing to gain (its image is read as floats by m (Mul))"
    assert skips(f"{ONE} {{ {GATED} {END} }}", residuals="float") == {"m": asked, "p": mean}
    assert skips(f"{ONE} {{ {IMAGE} {SUM} y = Conv(d, 16, 8) }}", residuals="float") == {"d": asked}


def test_excluded_by_name() -> None:
    text = f"{ONE} {{ {GATED} {END} }}"
    assert skips(text, ["m"])["m"] == "excluded by the user"
    # A mean that is to be left alone reads floats.
    assert skips(text, ["p"]) == {
        "m": "nothing to gain (its image is read as floats by p (GlobalAveragePool))",
        "p": "excluded by the user",
    }
    assert skips(f"{ONE} {{ {IMAGE} {SUM} y = Conv(d, 16, 8) }}", ["d"]) == {"d": "excluded by the user"}


def test_unknown_sizes() -> None:
    unknown = "needs a static shape"
    assert skips(f"{ONE} {{ {IMAGE} {SUM} y = Conv(d, 16, 8) }}", probed=False) == {"d": unknown}
    assert skips(f"{ONE} {{ {GATED} {END} }}", probed=False)["m"] == unknown
