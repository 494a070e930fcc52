# SPDX-License-Identifier: Apache-2.0
"""Recipes: a YAML list of passes with their options, checked against the passes' own declarations."""

from __future__ import annotations

import functools
import importlib.resources
import operator
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from edgefold.errors import UsageError
from edgefold.passes import PASSES, Pass
from edgefold.scoring.strict_yaml import DoubledKeyError, parse_yaml, yaml_value

_FUSING = ("fuse-blocks", "fuse-experts")
HEALED = "-heal"  # appended to the name of a built-in recipe
LARGEST_SEED = 2**63 - 1


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do to a model, complete enough to be run again.

    Attributes:
        steps: the passes in order.
        overrides: options for single nodes; every step that takes ``overrides`` gets those of them that it knows.
        exclude: node names or globs that no lossy pass may touch.
        max_drop: largest loss of the metric, ``1%`` of the original's value or ``1pt`` absolute.
        max_size: largest size of the artefact, as in ``4MB`` or ``500kB``.
        seed: of every random choice.
    """

    steps: tuple[Pass, ...]
    overrides: tuple[dict[str, Any], ...] = ()
    exclude: tuple[str, ...] = ()
    max_drop: str | None = None
    max_size: str | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_SEED)] = 0


def check_seed(seed: int) -> None:
    """Check a seed given outside a recipe.

    Raises:
        UsageError: it is negative, or torch's generators would not take it.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed {seed}: expected a whole number from 0 to {LARGEST_SEED}")


def built_in_recipes() -> dict[str, Path]:
    """Name and file of every recipe that the package carries, in alphabetical order."""
    folder = Path(str(importlib.resources.files("edgefold") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe by built-in name or path and apply ``PASS.OPTION=VALUE`` settings.

    Raises:
        UsageError: unknown recipe, malformed YAML, unknown pass or option, value out of range; names the place.
    """
    known = built_in_recipes()
    path = known.get(name_or_path, Path(name_or_path))
    if path.is_file():
        return parse_recipe(parse_yaml(path, "recipe"), str(path), settings)
    base = known.get(name_or_path.removesuffix(HEALED))
    if base is None:
        raise UsageError(
            f"recipe {name_or_path}: no such file, nor a built-in recipe ({', '.join(known)}; with {HEALED} appended "
            "to a name, followed by healing)"
        )
    raw = parse_yaml(base, "recipe")
    assert isinstance(raw, dict), "built-in recipes are read by tests"
    return parse_recipe({**raw, "steps": _healed(raw["steps"])}, name_or_path, settings)


def _healed(steps: list[Any]) -> list[Any]:
    """Steps with healing behind them, but before layers are fused: fused nodes have no gradient."""
    end = len(steps)
    while end and steps[end - 1]["pass"] in _FUSING:
        end -= 1
    return [*steps[:end], {"pass": "heal"}, *steps[end:]]


def parse_recipe(raw: object, place: str, settings: Sequence[str] = ()) -> Recipe:
    """Check a recipe given as plain data; ``place`` names it in errors.

    Raises:
        UsageError: as ``load_recipe``.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("steps"), list):
        raise UsageError(f"{place}: expected a mapping with the key `steps`, a list of passes")
    raw = {str(key).replace("-", "_"): value for key, value in raw.items()}
    raw["steps"] = [_normalized_step(step, index, place) for index, step in enumerate(raw["steps"])]
    _apply_settings(raw["steps"], settings)
    _share_overrides(raw["steps"], raw.pop("overrides", None), place)
    steps = tuple(_parse_step(step, index, place) for index, step in enumerate(raw.pop("steps")))
    try:
        shell = msgspec.convert({**raw, "steps": []}, Recipe)
    except msgspec.ValidationError as error:
        raise UsageError(f"{place}: {error}; a recipe has {', '.join(Recipe.__struct_fields__)}") from None
    return msgspec.structs.replace(shell, steps=steps)


def recipe_as_yaml(recipe: Recipe) -> str:
    """The recipe with every option written out; ``load_recipe`` reads it back to an equal value."""
    plain = {key: value for key, value in msgspec.to_builtins(recipe).items() if value not in (None, [], ())}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def _normalized_step(step: object, index: int, place: str) -> dict[str, Any]:
    if isinstance(step, str):
        step = {"pass": step}
    if not isinstance(step, dict) or not isinstance(step.get("pass"), str):
        raise UsageError(f"{place}: steps[{index}]: expected a mapping with the key `pass`")
    known = _pass_types()
    if step["pass"] not in known:
        raise UsageError(f"{place}: steps[{index}]: unknown pass `{step['pass']}`; there is {', '.join(known)}")
    return {str(key).replace("-", "_"): value for key, value in step.items()}


def _share_overrides(steps: list[dict[str, Any]], common: object, place: str) -> None:
    """Add the recipe's own overrides behind those of every step that takes any, as far as it knows their options."""
    if common in (None, []):
        return
    if not isinstance(common, list) or not all(isinstance(one, dict) for one in common):
        raise UsageError(f"{place}: overrides: expected a list of mappings, as in [{{match: 'head*', weights: 8}}]")
    takers = [step for step in steps if "overrides" in _pass_type(step["pass"]).__struct_fields__]
    if not takers:
        takes = [name for name, kind in _pass_types().items() if "overrides" in kind.__struct_fields__]
        raise UsageError(f"{place}: overrides: no step takes them; add a step {' or '.join(takes)}, or leave them out")
    common = [{str(key).replace("-", "_"): value for key, value in one.items()} for one in common]
    _check_known(common, takers, place)
    for step in takers:
        own, known = step.get("overrides", []), _override_options(step)
        if isinstance(own, list):  # anything else is refused where the step is read
            shared = [{key: value for key, value in one.items() if key == "match" or key in known} for one in common]
            step["overrides"] = [*own, *(one for one in shared if known.intersection(one))]


def _check_known(common: list[dict[str, Any]], takers: list[dict[str, Any]], place: str) -> None:
    """Each of the recipe's overrides says what it matches, and each of its options is known to a step."""
    known = {step["pass"]: _override_options(step) for step in takers}
    there = "; ".join(f"{name} takes {', '.join(sorted(options))}" for name, options in known.items())
    for index, one in enumerate(common):
        where = f"{place}: overrides[{index}]"
        if not isinstance(one.get("match"), str) or len(one) == 1:
            raise UsageError(f"{where}: expected `match`, a node name or glob, and options for it; {there}")
        unknown = [key for key in one if key != "match" and not any(key in options for options in known.values())]
        if unknown:
            raise UsageError(f"{where}: no step takes `{unknown[0]}` for single nodes; {there}")


def _override_options(step: dict[str, Any]) -> set[str]:
    """The options that a step takes for single nodes."""
    (override,) = (kind for kind in typing.get_args(_hint(_pass_type(step["pass"]), "overrides")) if kind is not ...)
    return {field for field in override.__struct_fields__ if field != "match"}


def _apply_settings(steps: list[dict[str, Any]], settings: Sequence[str]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for setting in settings:
        target, equals, text = setting.partition("=")
        pass_name, dot, option = target.rpartition(".")
        if not equals or not dot:
            raise UsageError(f"--set {setting}: expected PASS.OPTION=VALUE, as in quantize.weights=4")
        pass_name, option = pass_name.replace("_", "-"), option.replace("-", "_")
        if seen.setdefault((pass_name, option), text) != text:
            raise UsageError(f"--set {setting}: contradicts --set {target}={seen[pass_name, option]}; give one of them")
        matching = [step for step in steps if step["pass"] == pass_name]
        if not matching:
            raise UsageError(
                f"--set {setting}: the recipe has no step `{pass_name}`; "
                f"it has {', '.join(step['pass'] for step in steps)}"
            )
        for step in matching:
            step[option] = _value(setting, text)


def _value(setting: str, text: str) -> Any:
    try:
        return yaml_value(text)
    except DoubledKeyError as error:
        raise UsageError(f"--set {setting}: {error.problem}; give it once") from None
    except (yaml.YAMLError, RecursionError):
        raise UsageError(
            f'--set {setting}: the value is not YAML; words with *, &, %, @ or : stand in quotes, as in ["*q_proj*"]'
        ) from None


def _pass_types() -> dict[str, type[Pass]]:
    return {str(kind.__struct_config__.tag): kind for kind in PASSES}


def _pass_type(name: str) -> type[Pass]:
    return _pass_types()[name]


def _hint(kind: type[Pass], option: str) -> Any:
    """The type of an option; None where a pass has no such option."""
    return typing.get_type_hints(kind).get(option)


def _parse_step(step: dict[str, Any], index: int, place: str) -> Pass:
    kind = _pass_type(step["pass"])
    union = functools.reduce(operator.or_, PASSES)
    try:
        return msgspec.convert(step, union)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"{place}: steps[{index}] ({step['pass']}): {error}; {_accepted(kind, str(error))}") from None


def _accepted(kind: type[Pass], complaint: str) -> str:
    """What a pass takes: the values of the option that a complaint names where they are listed, else its options."""
    named = re.search(r"`\$\.(\w+)(?:\[\S+\])?`", complaint)
    hint = _hint(kind, named[1]) if named else None
    if typing.get_origin(hint) is tuple:  # of any number of the same kind
        hint = typing.get_args(hint)[0]
    if named and typing.get_origin(hint) is typing.Literal:
        return f"{named[1].replace('_', '-')} takes {', '.join(map(str, typing.get_args(hint)))}"
    options = ", ".join(name.replace("_", "-") for name in kind.__struct_fields__) or "no options"
    return f"it takes {options}"
