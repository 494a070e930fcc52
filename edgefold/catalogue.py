# SPDX-License-Identifier: Apache-2.0
"""The built-in recipes and every pass with its options, as text and JSON."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import textwrap
from typing import Any

import msgspec

from edgefold.errors import UsageError
from edgefold.passes import PASSES
from edgefold.recipe import HEALED, built_in_recipes, load_recipe, recipe_as_yaml

COLUMNS = 100


@dataclasses.dataclass(frozen=True)
class Listing:
    """A document for stdout in both forms."""

    document: dict[str, Any]
    text: str

    def to_json(self) -> dict[str, Any]:
        return self.document

    def to_text(self) -> str:
        return self.text


def list_recipes() -> Listing:
    """Every built-in recipe with its first comment, and every pass with its options and defaults."""
    recipes = {name: _comment(path.read_text(encoding="utf-8")) for name, path in built_in_recipes().items()}
    passes = {str(kind.__struct_config__.tag): _options(kind) for kind in PASSES}
    lines = ["Recipes (edgefold recipes show NAME prints one):"]
    lines += [_wrapped(text, f"  {name:<8} ", " " * 11) for name, text in recipes.items()]
    lines.append(f"  with {HEALED} appended to any of these names: the same, followed by the pass heal")
    lines.append(
        "\nPasses, with their options and what these are by default (edgefold recipes show PASS explains them):"
    )
    for kind in PASSES:
        lines.append(_wrapped(f"{kind.__struct_config__.tag}: {_summary(kind)}", "  ", "    "))
        options = ", ".join(f"{name}={default}" for name, default in _options(kind).items())
        lines += [_wrapped(options, "    ", "    ")] if options else []
    return Listing({"recipes": recipes, "passes": passes}, "\n".join(lines))


def show_recipe(name: str) -> Listing:
    """The text of a recipe, or the documentation of a pass.

    Raises:
        UsageError: neither has that name; lists both.
    """
    recipes = built_in_recipes()
    if name in recipes:
        text = recipes[name].read_text(encoding="utf-8").rstrip()
        return Listing({"name": name, "yaml": text}, text)
    if name.endswith(HEALED) and name.removesuffix(HEALED) in recipes:
        text = recipe_as_yaml(load_recipe(name)).rstrip()
        return Listing({"name": name, "yaml": text}, text)
    for kind in PASSES:
        if kind.__struct_config__.tag == name:
            text = inspect.cleandoc(kind.__doc__ or "")
            return Listing({"name": name, "options": _options(kind), "documentation": text}, text)
    passes = ", ".join(str(kind.__struct_config__.tag) for kind in PASSES)
    raise UsageError(f"recipes show {name}: there are the recipes {', '.join(recipes)} and the passes {passes}")


def _wrapped(text: str, first: str, others: str) -> str:
    return textwrap.fill(text, COLUMNS, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)


def _comment(text: str) -> str:
    """The comment at the head of a recipe, as one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.lstrip("# ") for line in lines)


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _options(kind: type[msgspec.Struct]) -> dict[str, Any]:
    options = {}
    for field in msgspec.structs.fields(kind):
        default = field.default if field.default is not msgspec.NODEFAULT else "(required)"
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        options[field.name.replace("_", "-")] = msgspec.to_builtins(default)
    return options
