# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Command = Callable[..., Any]  # the fixture `edgefold`
VERBS = ("compress", "heal", "eval", "bench", "inspect", "diff", "verify", "repro", "doctor", "recipes")


def test_help_lists_every_verb(edgefold: Command) -> None:
    outcome = edgefold("--help")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines() if line.startswith("  ")][-len(VERBS) :] == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb: str, edgefold: Command) -> None:
    outcome = edgefold(verb, "--help")
    assert outcome.code == 0
    assert "--format" in outcome.out


def test_no_command_shows_help(edgefold: Command) -> None:
    assert "compress" in edgefold().err + edgefold().out


def test_an_unknown_verb_is_one_line(edgefold: Command) -> None:
    outcome = edgefold("compres")
    assert outcome.code == 2
    assert "compres" in outcome.error_line


def test_a_missing_option_is_one_line(edgefold: Command) -> None:
    outcome = edgefold("compress", "-o", "out")
    assert outcome.code == 2
    assert "--model" in outcome.error_line


def test_recipes_lists_recipes_and_passes(edgefold: Command) -> None:
    text = edgefold("recipes").out
    document = json.loads(edgefold("recipes", "list", "--format", "json").out)
    for name in (*document["recipes"], *document["passes"]):
        assert name in text
    assert {"w4", "w8", "w4a4", "w6a6"} <= set(document["recipes"])
    assert document["passes"]["quantize"]["weights"] == 4


def test_recipes_show_prints_a_file_that_is_a_recipe(edgefold: Command) -> None:
    assert "pass: quantize" in edgefold("recipes", "show", "w4").out
    assert "What it does" in edgefold("recipes", "show", "quantize").out
    assert "there are the recipes" in edgefold("recipes", "show", "w99").error_line


def test_recipes_list_takes_no_name(edgefold: Command) -> None:
    outcome = edgefold("recipes", "list", "w4")
    assert outcome.code == 2
    assert "recipes list: takes no name; `edgefold recipes show w4` shows one" in outcome.error_line
    assert edgefold("recipes", "list").code == 0


@pytest.mark.parametrize("call", [("compress",), ("heal", "--teacher", "b.onnx", "-d", "task.yaml")])
def test_a_negative_seed_is_one_line(call: tuple[str, ...], edgefold: Command) -> None:
    outcome = edgefold(*call, "-m", "a.onnx", "-o", "out", "--seed", "-1")
    assert outcome.code == 2
    assert "-1 is not in the range x>=0" in outcome.error_line
    assert "a.onnx" in edgefold("compress", "-m", "a.onnx", "-o", "out", "--seed", "0").error_line


def test_underscores_in_options_are_dashes(edgefold: Command) -> None:
    outcome = edgefold("compress", "-m", "gone.onnx", "-o", "out", "--max_size", "tiny")
    assert "--max-size tiny" in outcome.error_line
