# SPDX-License-Identifier: Apache-2.0
"""Reads a user's YAML file into a frozen, typed value and refuses every key that the type does not know."""

from __future__ import annotations

import re
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from edgefold.errors import UsageError

T = TypeVar("T")

# A task or recipe file is a page of text; anything larger is a mistake (a model or data file given as one).
MAX_BYTES = 1 << 20


class DoubledKeyError(yaml.constructor.ConstructorError):
    """A mapping has two equal keys."""


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; a user should hear of it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                problem = f"the key '{key}' stands twice"
                raise DoubledKeyError(None, None, problem, key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1, which PyYAML speaks, takes 1e-3 for a text because it has no point; nobody means that.
_UniqueKeys.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def read_yaml(path: Path, kind: type[T], what: str) -> T:
    """Reads ``path`` as one value of the msgspec type ``kind``.

    Args:
        path: the YAML file.
        kind: a msgspec Struct with ``forbid_unknown_fields``.
        what: what the file is to the user, for messages: "task file".

    Raises:
        UsageError: no such file, not YAML, an unknown key, a value of the wrong type or out of bounds. The message
            names the file, the place inside it, and the keys allowed there.
    """
    tree = parse_yaml(path, what)
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: a {what} is a YAML mapping with the keys {_keys(kind)}, not {_yaml_name(tree)}")
    try:
        return msgspec.convert(tree, kind, strict=True)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {_explain(str(error), kind, tree)}") from error


def parse_yaml(path: Path, what: str) -> object:
    """The file as plain data, its keys unique; raises as ``read_yaml`` where it is no YAML."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than 1 MiB, so not a {what}; give the YAML file")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot read the {what}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not text, so not a {what}; give the YAML file") from error
    try:
        return yaml_value(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', None) or 'unreadable'}") from error
    except RecursionError as error:
        raise UsageError(f"{path}: not valid YAML: nested too deeply") from error


def yaml_value(text: str) -> object:
    """YAML text as plain data, its keys unique; ``1e-3`` is a number.

    Raises:
        yaml.YAMLError, RecursionError: it is none.
    """
    return yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a subclass of SafeLoader


def _explain(message: str, kind: type, tree: object) -> str:
    """Turns msgspec's message into ours: the place as a key path, and the keys allowed there."""
    text, _, place = message.partition(" - at ")
    steps = re.findall(r"\[(\.{3}|\d+)\]|\.([^.\[\]]+)", place.strip("`").removeprefix("$"))
    keys = _named([index or name for index, name in steps], kind, tree)
    at = ".".join(keys)
    unknown = re.match(r"Object contains unknown field `(.*)`", text)
    if unknown:
        owner = _type_at(kind, keys)
        where = f" in '{at}'" if at else ""
        return f"unknown key '{unknown[1]}'{where}; allowed: {_keys(owner)}"
    missing = re.match(r"Object missing required field `(.*)`", text)
    if missing:
        where = f" in '{at}'" if at else ""
        return f"the key '{missing[1]}'{where} is missing; allowed: {_keys(_type_at(kind, keys))}"
    return f"the key '{at}': {text[:1].lower()}{text[1:]}" if at else text


def _named(keys: list[str], kind: object, tree: object) -> list[str]:
    """The key path with the names that msgspec leaves out ("...": some key of a mapping)."""
    named: list[str] = []
    for key in keys:
        inner = _inner(kind, key)
        if key == "..." and isinstance(tree, dict):
            key = next((str(name) for name, value in tree.items() if not _converts(value, inner)), key)
        named.append(key)
        kind = inner
        tree = tree.get(key) if isinstance(tree, dict) else tree[int(key)] if isinstance(tree, list) else None
    return named


def _converts(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError:
        return False
    return True


def _type_at(kind: object, keys: list[str]) -> object:
    for key in keys:
        kind = _inner(kind, key)
    return _struct_of(kind)


def _inner(kind: object, key: str) -> object:
    struct = _struct_of(kind)
    if isinstance(struct, type) and issubclass(struct, msgspec.Struct):
        hints = typing.get_type_hints(struct)
        names = dict(zip(struct.__struct_encode_fields__, struct.__struct_fields__, strict=True))
        return hints.get(names.get(key, key))
    arguments = typing.get_args(kind)
    return arguments[-1] if typing.get_origin(kind) is dict else arguments[0] if arguments else None


def _struct_of(kind: object) -> object:
    """The Struct inside ``Struct | None``; any other type as it is."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        inside = [one for one in typing.get_args(kind) if one is not type(None)]
        return inside[0] if len(inside) == 1 else kind
    return kind


def _keys(kind: object) -> str:
    fields = getattr(kind, "__struct_encode_fields__", None)
    return ", ".join(fields) if fields else "(any)"


def _yaml_name(value: object) -> str:
    names: dict[type, str] = {list: "a list", str: "a text", type(None): "empty"}
    return names.get(type(value), f"a {type(value).__name__}")
