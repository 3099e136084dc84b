"""What SeRA never trains on, labels that are turned round on purpose, and what the policy makes of both."""

from pathlib import Path
from typing import Any

import pytest

from tests.recipes import offline_pairs, small
from tests.recipes.offline_pairs import records
from tests.recipes.sera.runs import Ran, both_sides, close, go, margin, words
from windvane.evaluation.reward_accuracy import RewardAccuracy
from windvane.recipes.preference import TrainResult
from windvane.selection import implicit_margin
from windvane.types import Dropped, Query, Samples

HELD_OUT = set(RewardAccuracy.model_fields)


def test_held_out_prompts_are_trained_on_in_no_form(studied: Ran) -> None:
    everything = studied.pairs()
    held_out = {each.id for each in studied.margins(1, "held-out-margins")}
    trained_on = {each.pair.id for each in studied.trained_on(1)}
    assert held_out | trained_on == set(everything)
    assert not held_out & trained_on
    apart = {words(everything[name].prompt) for name in held_out}
    assert len(apart) == 6  # a quarter of the prompts
    assert len(held_out) > 6  # one of them stands there in two forms at the least, or this test shows nothing
    known = {pair.prompt for name, pair in everything.items() if name in trained_on}
    for number in (1, 2, 3):
        assert [each.pair.id for each in studied.trained_on(number) if words(each.pair.prompt) in apart] == []
        assert {each.pair.prompt for each in studied.trained_on(number)} <= known
    for number in (2, 3):
        asked = {each.query_id for each in records(studied.stage(f"round-{number}/samples.jsonl"), Samples)}
        assert asked <= trained_on


def test_evaluation_prompts_are_trained_on_in_no_form(model: Path, pairs: Path, tmp_path: Path) -> None:
    asked = {"fish", "river", "coat", "salt"}
    own = small.write_queries(tmp_path / "own.jsonl", [f"THE {noun}?!" for noun in sorted(asked)])
    options = [offline_pairs.SAMPLES, "rounds=2", f"evaluation={{queries: {own}, max_new_tokens: 8}}"]
    run = go(model, pairs, tmp_path / "run", *options)
    apart = {f"name the {noun}" for noun in asked}
    assert {words(query.messages) for query in records(run.stage("evaluation/queries.jsonl"), Query)} == apart
    everything = run.pairs()
    left = {name for name, pair in everything.items() if words(pair.prompt) not in apart}
    assert len(left) < len(everything)
    assert {each.pair.id for each in run.trained_on(1)} == left
    for number in (1, 2):
        assert not apart & {words(each.pair.prompt) for each in run.trained_on(number)}
    sampled = records(run.stage("round-2/samples.jsonl"), Samples)
    assert {each.query_id for each in sampled} <= left
    summary = small.read_json(run.stage("summary.json"))
    assert (summary["evaluation"]["n"], summary["rounds"][1]["held_out"]) == (4, None)
    gone = summary["counts"]["dropped"]["evaluation_prompt"]
    assert summary["counts"]["pairs_made"] == len(left) + gone == len(everything)
    assert len(records(run.stage("left-out.jsonl"), Dropped)) == gone > 0


def test_labels_are_flipped_in_training_pairs_alone(studied: Ran) -> None:
    flipped = {each.id for each in records(studied.stage("flipped.jsonl"), Dropped)}
    original, trained_on = studied.pairs(), studied.trained_on(1)
    assert len(flipped) == int(0.25 * len(trained_on) + 0.5)
    assert small.read_json(studied.stage("summary.json"))["flipped"] == len(flipped)
    for each in trained_on:
        one = original[each.pair.id]
        sides = (one.rejected, one.chosen) if one.id in flipped else (one.chosen, one.rejected)
        assert (each.pair.chosen, each.pair.rejected) == sides
    held_out = studied.margins(3, "held-out-margins")
    clean = [original[each.id] for each in held_out]
    scores = zip(*(both_sides(studied.policy(n), clean) for n in (3, 0)), strict=True)
    assert [each.margin for each in held_out] == [close(margin(now) - margin(then)) for now, then in scores]
    assert not flipped & {each.id for each in held_out}


def test_the_report_on_noise_agrees_with_what_is_on_file(studied: Ran) -> None:
    rounds = small.read_json(studied.stage("summary.json"))["rounds"]
    assert rounds[0]["noise"] is None
    flipped = {each.id for each in records(studied.stage("flipped.jsonl"), Dropped)}
    for number in (2, 3):
        said = rounds[number - 1]["noise"]
        dropped = {each.id for each in records(studied.stage(f"round-{number}/dropped.jsonl"), Dropped)}
        caught = len(dropped & flipped)
        assert (said["precision"], said["recall"]) == (caught / len(dropped), caught / len(flipped))
        assert (said["pairs"], said["flipped"], said["removed"]) == (
            len(studied.trained_on(1)),
            len(flipped),
            len(dropped),
        )
        margins = {each.id: each.margin for each in studied.margins(number)}
        clean = [margins[name] for name in margins if name not in flipped]
        wins = sum(value > margins[name] for value in clean for name in flipped)
        assert said["auc"] == pytest.approx(wins / (len(clean) * len(flipped)))


def test_plain_training_says_how_it_does_on_held_out_pairs(trained: TrainResult, studied: Ran) -> None:
    summary = small.read_json(trained.run / "summary.json")
    assert HELD_OUT - set(summary["held_out"]) == set()
    assert summary["held_out"]["n"] == len(studied.margins(1, "held-out-margins"))
    assert summary["flipped"] == len((trained.run / "flipped.jsonl").read_text(encoding="utf-8").splitlines()) > 0
    assert summary["counts"]["pairs_kept"] == len(studied.trained_on(1))
    for name in ("training-pairs", "held-out-margins"):
        assert (trained.run / f"{name}.jsonl").read_bytes() == studied.stage(f"round-1/{name}.jsonl").read_bytes()


@pytest.mark.parametrize("sign", [1, -1], ids=["as it is", "negated"])
def test_the_policy_tells_flipped_pairs_from_clean_ones(
    sign: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """53 pairs, 16 of them flipped, after one epoch: AUC 0.99, 15 of 16 removed, and 18 of 19 held-out pairs right.

    Other seeds, of the run and of the noise: AUC 0.95 to 1. Margins that are negated turn all of it around: AUC 0.01.
    With the margin's sign turned in `dpo_loss`, it is 0.02.
    """

    def turned(*arguments: Any) -> float:
        return sign * implicit_margin(*arguments)

    monkeypatch.setattr("windvane.recipes.offline.implicit_margin", turned)
    nouns = [f"{kind} {noun}" for kind in ("red", "old") for noun in small.NOUNS]
    file = offline_pairs.write_pairs(tmp_path / "pairs.jsonl", offline_pairs.rows(nouns))
    options = ["rounds=2", "holdout=0.25", "noise={flip: 0.3}", offline_pairs.NO_SAMPLES]
    first, second = go(model, file, tmp_path / "run", *options).result.rounds
    assert first.held_out is not None
    assert second.review.noise is not None
    auc, recall, right = second.review.noise.auc, second.review.noise.recall, first.held_out.accuracy
    assert auc is not None
    assert recall is not None
    assert right is not None
    if sign == 1:
        assert auc > 0.8
        assert recall > 0.6  # chance is 0.3
        assert right > 0.8
    else:
        assert auc < 0.2
        assert recall < 0.1
        assert right < 0.2
