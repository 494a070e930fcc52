# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from edgefold.findings import findings_of
from edgefold.report import Figures, Report

BEFORE = Figures(4_000_000, 1_000_000, 5_000_000, {"metric": "top1", "value": 80.0, "ci95": [78, 82]}, 2.0, 32.0)
AFTER = Figures(600_000, 1_000_000, 5_000_000, {"metric": "top1", "value": 79.5, "ci95": [77, 82]}, 1.0, 4.3)
RANKING = (("/conv1", 0.06), ("/conv2", 0.03), ("/conv3", 0.01))


def step(skips: int = 0, edits: int = 3) -> dict[str, Any]:
    one = {"node": "/conv", "reason": "weight is not a constant", "detail": ""}
    return {"pass": "quantize", "edits": edits, "skips": [{**one, "node": f"/conv{i}"} for i in range(skips)]}


def report(**changes: Any) -> Report:
    plain = {"status": "done", "model": "a.onnx", "output": "out", "before": BEFORE, "after": AFTER, "steps": [step(2)]}
    return Report(**{**plain, **changes})


def test_the_summary_shows_each_figure_before_and_after() -> None:
    text = report(environment={"latency": "1 thread"}).to_text()
    for words in ("4 MB", "600 kB", "6.67x smaller", "80.0000", "79.5000", "2.00x faster (1 thread)", "4.30"):
        assert words in text


def test_a_slowdown_is_called_one() -> None:
    assert "2.00x slower" in report(before=AFTER, after=BEFORE).to_text()


def test_skips_are_counted_by_reason_and_a_long_list_is_cut() -> None:
    text = report(steps=[step(30)]).to_text()
    assert "weight is not a constant: 30 nodes" in text
    assert "and 18 more in report.json" in text
    assert "/conv20" not in text


def test_what_holds_for_the_whole_model_counts_no_nodes() -> None:
    skip = {"node": "model", "reason": "needs calibration data", "detail": "rounding nearest instead of gptq"}
    text = report(steps=[{**step(1), "skips": [skip, *step(1)["skips"]]}]).to_text()
    assert "\n  quantize: needs calibration data (rounding nearest instead of gptq)\n" in text
    assert "weight is not a constant: 1 node\n" in text


def test_a_figure_that_stays_is_neither_better_nor_worse() -> None:
    assert "the same" in report(before=AFTER, after=AFTER).to_text()


def test_a_node_that_a_later_step_replaced_was_not_left_alone() -> None:
    later = {"pass": "quantize-attention", "skips": [], "edited": [{"node": "/w", "what": "", "replaced": ["/conv0"]}]}
    text = report(steps=[step(2), later]).to_text()
    assert "/conv0" not in text
    assert "1 node\n    /conv1" in text
    assert "/conv0" in report(steps=[later, step(2)]).to_text()


def test_the_json_document_has_the_promised_keys() -> None:
    document = json.loads(json.dumps(report(ranking=RANKING).to_json()))
    assert {"bytes", "weights", "macs", "metric", "latency_ms"} <= set(document["before"])
    assert document["ranking"][0] == {"node": "/conv1", "noise_to_signal": 0.06}


def test_a_significant_loss_names_the_nodes_that_carry_half_the_error() -> None:
    change = {"value": -2.0, "ci95": [-3.0, -1.0]}
    (cure,) = findings_of(BEFORE, AFTER, [step()], change, True, {}, RANKING)
    assert "--exclude '/conv1'" in cure
    assert "/conv2" not in cure


def test_a_loss_within_its_interval_is_no_finding() -> None:
    assert findings_of(BEFORE, AFTER, [step()], {"value": -0.5, "ci95": [-1.5, 0.5]}, True, {}, RANKING) == ()


def test_higher_is_worse_for_perplexity() -> None:
    change = {"value": 0.5, "ci95": [0.4, 0.6]}
    assert findings_of(BEFORE, AFTER, [step()], change, False, {}, RANKING)
    assert not findings_of(BEFORE, AFTER, [step()], change, True, {}, RANKING)


def test_a_missed_goal_comes_first() -> None:
    goals = {"max_size": {"goal": 500_000, "measured": 600_000, "met": False}}
    found = findings_of(BEFORE, AFTER, [step(edits=0)], None, True, goals, ())
    assert found[0].startswith("Goal missed: --max-size")
    assert "quantize changed nothing" in found[1]


def test_a_missed_drop_names_the_option_that_keeps_to_it() -> None:
    goals = {"max_drop": {"goal": "0.1%", "measured": 2.0, "met": False}}
    [said, *_] = findings_of(BEFORE, AFTER, [cut()], None, True, goals, ())
    assert said.startswith("Goal missed: --max-drop 0.1%")
    assert "max_drop: 0.1%" in said
    asked = {**cut(), "options": {"max_drop": "0.1%"}}
    for steps in ([step()], [asked], [cut(edits=0)]):
        assert "max_drop:" not in findings_of(BEFORE, AFTER, steps, None, True, goals, ())[0]


WORSE = {"value": -20.0, "ci95": [-25.0, -15.0]}


def cut(edits: int = 3, **skip: str) -> dict[str, Any]:
    skips = [{"node": "model", "detail": "", **skip}] if skip else []
    return {"pass": "remove-blocks", "edits": edits, "skips": skips}


def test_a_loss_by_a_cut_is_said_though_no_node_has_it() -> None:
    (found,) = findings_of(BEFORE, AFTER, [cut()], WORSE, True, {}, ())
    assert "remove-blocks took parts" in found
    assert "edgefold heal" in found
    healed = {"pass": "heal", "edits": 1, "skips": []}
    assert not findings_of(BEFORE, AFTER, [cut(), healed], WORSE, True, {}, ())
    assert not findings_of(BEFORE, AFTER, [cut(edits=0, reason="x"), step()], WORSE, True, {}, ())[1:]


def test_a_recipe_whose_heart_found_nothing_to_do_says_so() -> None:
    (found,) = findings_of(BEFORE, AFTER, [cut(0, reason="no repeated residual blocks were found")], None, True, {}, ())
    assert found == "remove-blocks changed nothing: no repeated residual blocks were found."
    (found,) = findings_of(BEFORE, AFTER, [cut(0, reason="needs calibration data")], None, True, {}, ())
    assert found.endswith("the list below says why for each node.")


def test_a_model_that_is_quantized_already_leads_to_the_float_one() -> None:
    done = {"node": "conv", "reason": "already quantized", "detail": ""}
    other = {"node": "product", "reason": "weight is not a constant", "detail": ""}
    for skips, said in (
        ([done, other, done], "2 layers are quantized already; other widths need the float model"),
        ([done], "1 layer is quantized already"),
        ([other], "the list below says why"),
    ):
        (found,) = findings_of(BEFORE, AFTER, [{**step(edits=0), "skips": skips}], None, True, {}, ())
        assert said in found
    assert not findings_of(BEFORE, AFTER, [{**step(edits=1), "skips": [done]}], None, True, {}, ())


def test_layers_quantized_one_by_one_that_are_slow_lead_to_the_recipe_for_speed() -> None:
    (slow,) = findings_of(AFTER, replace(AFTER, latency_ms=2.0), [step()], None, True, {}, ())
    assert "`-c fused`" in slow
    for found in (1, 0):  # a recipe that found nothing to fuse is not to be told to fuse
        fused = {"pass": "fuse-blocks", "edits": found, "skips": []}
        (slow, *_) = findings_of(AFTER, replace(AFTER, latency_ms=2.0), [step(), fused], None, True, {}, ())
        assert "`-c fused`" not in slow


def test_a_slow_model_whose_convolutions_stayed_float_leads_to_calibration_data() -> None:
    def slow(reason: str, detail: str) -> str:
        skip = {"node": "/conv", "reason": reason, "detail": detail}
        steps = [{**step(), "skips": [skip]}, {"pass": "fuse-blocks", "edits": 0, "skips": []}]
        return findings_of(AFTER, replace(AFTER, latency_ms=2.0), steps, None, True, {}, ())[0]

    assert "`-d TASK`" in slow("needs calibration data", "activations stay float")
    # Linear layers compute on integers without such data; nothing else is cured by them.
    assert "-d" not in slow("needs calibration data", "activations are quantized per row instead")
    assert "-d" not in slow("kept at a higher width", "activations stay float")


def test_pruning_that_saves_work_but_no_time_names_the_option() -> None:
    pruned = {"pass": "prune-channels", "edits": 9, "skips": [], "options": {"multiple": 1}}
    after = replace(BEFORE, macs=2_500_000, latency_ms=1.9)
    (found,) = findings_of(BEFORE, after, [pruned], None, True, {}, ())
    assert "1/2.00, the time to 1/1.05" in found
    assert "prune-channels.multiple=8" in found
    assert not findings_of(BEFORE, replace(after, latency_ms=1.2), [pruned], None, True, {}, ())
    assert not findings_of(BEFORE, after, [{**pruned, "options": {"multiple": 8}}], None, True, {}, ())


def test_a_loss_that_nobody_notices_is_no_finding() -> None:
    cosine = replace(BEFORE, metric={"metric": "cosine", "value": 1.0, "ci95": [1, 1]})
    change = {"value": -3e-5, "ci95": [-5e-5, -1e-5]}
    assert not findings_of(cosine, AFTER, [step()], change, True, {}, RANKING)


def test_nodes_that_were_packed_before_are_no_cure() -> None:
    """A run that cuts a quantized model ranks its packed nodes too, and excluding them would change nothing."""
    (found,) = findings_of(BEFORE, AFTER, [step(edits=0) | {"pass": "simplify"}, cut()], WORSE, True, {}, RANKING)
    assert "--exclude" not in found
