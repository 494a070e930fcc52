# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from edgefold.errors import UsageError
from edgefold.passes.prune_channels import GroupOverride
from edgefold.passes.quantize import Override
from edgefold.recipe import built_in_recipes, load_recipe, parse_recipe, recipe_as_yaml


@pytest.mark.parametrize("name", sorted(built_in_recipes()))
def test_a_built_in_recipe_survives_the_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    saved = tmp_path / "saved.yaml"
    saved.write_text(recipe_as_yaml(recipe))
    assert load_recipe(str(saved)) == recipe


def test_settings_change_the_named_step_only() -> None:
    changed, plain = load_recipe("w4", ["quantize.weights=3"]), load_recipe("w4")
    assert changed.steps[-1].weights == 3  # type: ignore[attr-defined]
    assert changed.steps[:-1] == plain.steps[:-1]


def test_healing_comes_before_layers_are_fused() -> None:
    names = [step.name for step in load_recipe("fused-heal").steps]
    assert names[-3:] == ["heal", "fuse-experts", "fuse-blocks"]
    assert [step.name for step in load_recipe("w4-heal").steps][-1] == "heal"


def test_dashes_and_underscores_are_alike() -> None:
    assert load_recipe("w4", ["quantize.first-last=4"]) == load_recipe("w4", ["quantize.first_last=4"])


def test_overrides_at_the_top_reach_the_steps_that_take_them() -> None:
    raw = {"steps": ["simplify", {"pass": "quantize"}], "overrides": [{"match": "/encoder/*", "weights": 8}]}
    recipe = parse_recipe(raw, "here")
    assert len(recipe.steps[1].overrides) == 1  # type: ignore[attr-defined]


def test_overrides_of_a_step_come_before_those_at_the_top() -> None:
    own, common = {"match": "a", "weights": 8}, {"match": "b", "weights": 4}
    recipe = parse_recipe({"steps": [{"pass": "quantize", "overrides": [own]}], "overrides": [common]}, "here")
    assert [one.match for one in recipe.steps[0].overrides] == ["a", "b"]  # type: ignore[attr-defined]


def test_a_step_gets_of_the_overrides_at_the_top_what_it_knows() -> None:
    shared = [
        {"match": "head", "weights": 8},
        {"match": "stem", "floor": 1.0},
        {"match": "both", "floor": 0.5, "multiple": 8, "activations": "float"},
    ]
    prune, quantize = parse_recipe({"steps": ["prune-channels", "quantize"], "overrides": shared}, "here").steps
    assert prune.overrides == (  # type: ignore[attr-defined]
        GroupOverride(match="stem", floor=1.0),
        GroupOverride(match="both", floor=0.5, multiple=8),
    )
    assert quantize.overrides == (  # type: ignore[attr-defined]
        Override(match="head", weights=8),
        Override(match="both", activations="float"),
    )


@pytest.mark.parametrize("nothing", [None, []])
def test_no_overrides_at_the_top_need_no_step_that_takes_them(nothing: object) -> None:
    assert parse_recipe({"steps": ["simplify"], "overrides": nothing}, "here") == parse_recipe(
        {"steps": ["simplify"]}, "here"
    )


def test_a_setting_is_read_as_a_recipe_file_is(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-3 for a text; the file's loader and the setting's do not."""
    (tmp_path / "recipe.yaml").write_text("steps: [{pass: remove-blocks, max-error: 1e-3}]\n")
    (tmp_path / "bare.yaml").write_text("steps: [remove-blocks]\n")
    set_so = load_recipe(str(tmp_path / "bare.yaml"), ["remove-blocks.max_error=1e-3"])
    assert set_so == load_recipe(str(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["quantize.weigths=4"], "weigths"),
        (["quantize.weights=9"], "weights"),
        (["quantize.weights=many"], "weights"),
        (["quantise.weights=4"], "no step"),
        (["weights=4"], "PASS.OPTION=VALUE"),
        (["quantize.weights=4", "quantize.weights=8"], "contradicts"),
        (["quantize.overrides=[{match: a, weights: 4, weights: 8}]"], "the key 'weights' stands twice; give it once"),
        (["quantize.bits=" + "[" * 5000], "is not YAML"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(settings: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_recipe("w4", settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (None, "steps"),
        ({"steps": 3}, "steps"),
        ({"steps": [{"pass": "quantise"}]}, "unknown pass `quantise`"),
        ({"steps": [{"weights": 4}]}, "key `pass`"),
        ({"steps": [{"pass": "quantize", "sparcity": 1}]}, "sparcity"),
        ({"steps": [], "step": []}, "step"),
        ({"steps": ["quantize"], "overrides": 5}, "overrides: expected a list of mappings"),
        ({"steps": ["simplify"], "overrides": "hello"}, "overrides: expected a list of mappings"),
        ({"steps": ["quantize"], "overrides": ["hello"]}, "overrides: expected a list of mappings"),
        (
            {"steps": ["simplify"], "overrides": [{"match": "a"}]},
            "overrides: no step takes them; add a step prune-channels or quantize",
        ),
        (
            {"steps": [{"pass": "quantize", "overrides": None}], "overrides": [{"match": "a", "weights": 8}]},
            r"steps\[0\] \(quantize\)",
        ),
        (
            {"steps": ["quantize"], "overrides": [{"match": "a", "floor": 1.0}]},
            r"mine.yaml: overrides\[0\]: no step takes `floor` for single nodes; quantize takes activations, method",
        ),
        (
            {"steps": ["prune-channels", "quantize"], "overrides": [{"match": "a", "wieghts": 8}]},
            r"no step takes `wieghts` for single nodes; prune-channels takes floor, multiple; quantize takes act",
        ),
        (
            {"steps": ["quantize"], "overrides": [{"match": "b", "weights": 8}, {"weights": 8}]},
            r"overrides\[1\]: expected `match`",
        ),
        ({"steps": ["quantize"], "overrides": [{"match": "a"}]}, r"overrides\[0\]: expected `match`.* and options"),
        ({"steps": ["quantize"], "overrides": [{"match": "a", "weights": "8x"}]}, r"steps\[0\] \(quantize\)"),
        ({"steps": ["quantize"], "seed": -1}, "`int` >= 0"),
    ],
)
def test_a_malformed_recipe_names_its_place(raw: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_recipe(raw, "mine.yaml")


def test_an_unknown_recipe_lists_the_built_in_ones() -> None:
    with pytest.raises(UsageError, match="w4"):
        load_recipe("w5")


def test_yaml_that_is_none_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("steps: [\n")
    with pytest.raises(UsageError, match="not valid YAML") as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        ("remove-blocks.criterion=nonsense", "; criterion takes auto, repaired, exhaustive, "),
        ("remove-blocks.criterion=[greedy]", "; criterion takes auto, repaired, exhaustive, "),
        ("remove-blocks.keep=[x]", "; it takes blocks, ratio, "),
        ("remove-blocks.blcks=2", "; it takes blocks, ratio, flops, max-error, max-drop, parts, "),
        ("remove-blocks.ratio=2", "; it takes blocks, ratio, "),
    ],
)
def test_a_wrong_option_is_told_what_would_do(setting: str, advice: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("shallow", [setting])
    assert advice in str(caught.value)


def test_a_wrong_word_in_a_list_is_told_what_would_do() -> None:
    with pytest.raises(UsageError) as caught:
        parse_recipe({"steps": [{"pass": "fuse-blocks", "kinds": ["linear", "linears"]}]}, "r")
    assert "`$.kinds[1]`; kinds takes feed-forward, linear, conv-region, " in str(caught.value)


def test_a_setting_that_is_not_yaml_is_told_to_quote() -> None:
    with pytest.raises(UsageError, match=r"^--set heal.train=\[\*norm\*\]: the value is not YAML; words with "):
        load_recipe("w4-heal", ["heal.train=[*norm*]"])
    recipe = load_recipe("w4-heal", ['heal.train=["*norm*"]'])
    assert any(getattr(step, "train", None) == ("*norm*",) for step in recipe.steps)
