"""SeRA's rounds: what they equal, where they start, what they are compared with, and what is on file of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.recipes import offline_pairs, small
from tests.recipes.offline_pairs import records
from tests.recipes.sera.runs import Ran, both_sides, close, engine, go, plain_training
from windvane.data import PreferenceSource, load_preferences
from windvane.engines.models import load_model
from windvane.engines.settings import EngineSettings
from windvane.evaluation.reward_accuracy import RewardAccuracy
from windvane.losses import make_objective
from windvane.recipes.preference import TrainResult
from windvane.recipes.sera import run_sera
from windvane.recipes.sera_round import round_seed
from windvane.selection import NoiseRemoval, PairMargin
from windvane.training import encode_pair, train_policy
from windvane.types import Completion, Dropped, Message, PromptScores, ReferencedPair, ScoreRequest

SUMMARY = {
    "method", "model", "seed", "windvane_version", "started", "finished", "minutes", "stages", "counts", "policy",
    "reference", "start", "flipped", "rounds", "evaluation",
}  # fmt: skip
COUNTS = {
    "pairs_made", "pairs_kept", "pairs_added", "dropped", "not_added", "logprobs_computed", "logprobs_reused",
    "model_calls", "model_calls_reused", "tokens_generated", "tokens_scored",
}  # fmt: skip
ROUND = {
    "pairs_kept", "pairs_dropped", "pairs_added", "token_price", "thresholds", "noise", "held_out", "policy", "steps",
    "final_loss",
}  # fmt: skip
HELD_OUT = set(RewardAccuracy.model_fields)
NOISE = set(NoiseRemoval.model_fields)
"""The fields that users and scripts build on; more may stand beside them, none of these may go."""


def test_round_1_is_plain_training(studied: Ran, trained: TrainResult) -> None:
    """The policy of `windvane train` on the same file, seed, loss, held-out share and noise, bit for bit."""
    for name in ("model.safetensors", "training.jsonl", "windvane.json"):
        assert (studied.policy(1) / name).read_bytes() == (trained.policy / name).read_bytes(), name
    assert studied.result.rounds[0].held_out == trained.held_out
    assert studied.weights(1) != studied.weights(2)


def by_hand(base: Ran, start: Path, pairs: Path, folder: Path, *, seed: int) -> bytes:
    """Train `start` on all of a file by `train_policy`, with the first model as reference; return the weights."""
    loaded = load_model(str(start), EngineSettings(dtype="float32"))
    examples = [encode_pair(loaded.chat, pair) for pair in load_preferences(PreferenceSource(path=str(pairs)))]
    said: dict[tuple[Message, ...], dict[Completion, None]] = {}
    for pair in base.pairs().values():
        said.setdefault(pair.prompt, {}).update({pair.chosen: None, pair.rejected: None})
    asked = [ScoreRequest(prompt, tuple(responses)) for prompt, responses in said.items()]
    scores = zip(asked, engine(base.policy(0)).score(asked), strict=True)
    known = {(a.messages, one): b.sum for a, found in scores for one, b in zip(a.responses, found, strict=True)}
    given = [
        replace(example, reference={"plain": (known[pair.prompt, pair.chosen], known[pair.prompt, pair.rejected])})
        for example, pair in zip(examples, base.pairs().values(), strict=True)
    ]
    settings = base.config.training.away_from_reference()
    train_policy(
        loaded, given, make_objective(base.config.loss), settings,
        output=folder / "policy", checkpoints=folder / "checkpoints", seed=seed,
    )  # fmt: skip
    return (folder / "policy" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number", [2, 3])
def test_keeping_all_and_adding_none_is_the_plain_loss_round_after_round(
    baseline: Ran, pairs: Path, tmp_path: Path, number: int
) -> None:
    """On all of the file, from the policy before, with the first model as reference, bit for bit."""
    start = baseline.policy(number - 1)
    found = by_hand(baseline, start, pairs, tmp_path, seed=round_seed(baseline.config.seed, number))
    assert found == baseline.weights(number)


def test_from_the_first_model_anew_every_round_is_plain_training_with_its_seed(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    options = [offline_pairs.NO_SAMPLES, "selection.keep=1", "start=initial", "rounds=2", "seed=7"]
    anew = go(model, pairs, tmp_path / "run", *options)
    assert round_seed(7, 1) == 7
    for number in (1, 2):
        plain = plain_training(model, pairs, tmp_path / f"plain-{number}", f"seed={round_seed(7, number)}")
        assert (plain.policy / "model.safetensors").read_bytes() == anew.weights(number)
        assert small.read_json(anew.policy(number) / "windvane.json")["start"] == str(model)
    assert anew.weights(1) != anew.weights(2)


def test_a_round_starts_from_the_policy_before(studied: Ran, model: Path) -> None:
    starts = [small.read_json(studied.policy(number) / "windvane.json")["start"] for number in (1, 2, 3)]
    assert starts == [str(model), "round-1/policy", "round-2/policy"]


def test_the_reference_stays_the_first_model(studied: Ran) -> None:
    """The numbers on file, of round 1 in every round, and of the first model for what a round added."""
    first = {each.pair.id: each.reference for each in studied.trained_on(1)}
    for number in (2, 3):
        given = studied.trained_on(number)
        old = [each for each in given if each.pair.id in first]
        new = [each for each in given if each.pair.id not in first]
        assert len(new) == len(studied.picked(number).pairs) > 0
        assert [each.reference for each in old] == [first[each.pair.id] for each in old]
        assert_reference(new, studied.policy(0))
    changes = [small.metrics(studied.policy(number))[0]["chosen_change"] for number in (1, 2, 3)]
    assert changes[0] == pytest.approx(0, abs=1e-5)
    assert min(abs(change) for change in changes[1:]) > 1e-3  # the policy that these rounds start with has moved


def assert_reference(given: Sequence[ReferencedPair], folder: Path) -> None:
    for each, scores in zip(given, both_sides(folder, [each.pair for each in given]), strict=True):
        assert each.reference is not None
        assert each.reference.chosen.sum == close(scores.chosen.sum)
        assert each.reference.rejected.sum == close(scores.rejected.sum)


def test_the_reference_may_be_the_previous_policy(otherwise: Ran) -> None:
    for number in (1, 2, 3):
        assert_reference(otherwise.trained_on(number), otherwise.policy(number - 1))
        change = small.metrics(otherwise.policy(number))[0]["chosen_change"]
        assert change == pytest.approx(0, abs=1e-4)  # before its first step, a policy is its reference
    first = {each.pair.id: each.reference for each in otherwise.trained_on(1)}
    again = [each for each in otherwise.trained_on(2) if each.pair.id in first]
    assert all(each.reference != first[each.pair.id] for each in again)


def score_files(run: Ran) -> list[Path]:
    """Return the files of log-probabilities."""
    names = ("reference", "scores", "initial-scores", "held-out", "candidates-*")
    return [path for name in names for path in run.result.run.rglob(f"{name}.jsonl")]


@pytest.mark.parametrize("name", ["studied", "baseline", "otherwise"])
def test_no_log_probability_is_computed_twice(name: str, request: pytest.FixtureRequest) -> None:
    run: Ran = request.getfixturevalue(name)
    counts = small.read_json(run.stage("summary.json"))["counts"]
    assert set(run.asked.values()) == {1}
    on_file = [record for path in score_files(run) for record in records(path, PromptScores)]
    assert counts["logprobs_computed"] == len(run.asked) == sum(len(record.logprobs) for record in on_file)
    assert counts["logprobs_reused"] > 0


def test_a_baseline_round_costs_one_pass_of_its_policy(baseline: Ran) -> None:
    """68 different responses in 36 pairs: each under the first model once, and under each policy that judges it."""
    counts = small.read_json(baseline.stage("summary.json"))["counts"]
    assert counts["logprobs_computed"] == 3 * 68
    # Read: the reference of both sides in three trainings; in two reviews under last, before and reference.
    assert counts["logprobs_computed"] + counts["logprobs_reused"] == 3 * 2 * 36 + 2 * 3 * 2 * 36


def test_the_summary_has_the_fields_that_others_rely_on(studied: Ran) -> None:
    summary = small.read_json(studied.stage("summary.json"))
    assert SUMMARY - set(summary) == set()
    assert COUNTS - set(summary["counts"]) == set()
    assert [ROUND - set(each) for each in summary["rounds"]] == [set()] * 3
    assert [HELD_OUT - set(each["held_out"]) for each in summary["rounds"]] == [set()] * 3
    assert [NOISE - set(each["noise"]) for each in summary["rounds"][1:]] == [set()] * 2
    assert (summary["method"], summary["reference"], summary["start"]) == ("sera", "initial", "previous")
    assert summary["policy"] == str(studied.result.policy) == str(studied.policy(3))
    assert summary["evaluation"] is None
    assert [each["policy"] for each in summary["rounds"]] == [str(studied.policy(number)) for number in (1, 2, 3)]


def test_counts_agree_with_what_is_on_file(studied: Ran) -> None:
    summary = small.read_json(studied.stage("summary.json"))
    counts, rounds = summary["counts"], summary["rounds"]
    kept = [len(records(studied.stage(f"round-{number}/kept.jsonl"), PairMargin)) for number in (2, 3)]
    dropped = [len(records(studied.stage(f"round-{number}/dropped.jsonl"), Dropped)) for number in (2, 3)]
    picks = [studied.picked(number) for number in (2, 3)]
    assert [each["pairs_kept"] for each in rounds] == [len(studied.trained_on(1)), *kept]
    assert [each["pairs_dropped"] for each in rounds] == [0, *dropped]
    assert [each["pairs_added"] for each in rounds] == [0, *(len(pick.pairs) for pick in picks)]
    assert counts["pairs_made"] == len(studied.pairs()) == 36
    assert counts["pairs_kept"] == kept[-1]
    assert counts["pairs_added"] == len(picks[-1].pairs)  # of the last round, as all of these
    assert counts["dropped"] == {"low_margin": dropped[-1]}
    assert counts["not_added"] == Counter(each.reason for each in picks[-1].dropped)
    in_training = counts["pairs_kept"] + counts["dropped"]["low_margin"]
    assert counts["pairs_made"] == in_training + counts["pairs_held_out"]
    steps = [-(-len(studied.trained_on(number)) // 4) for number in (1, 2, 3)]
    assert [each["steps"] for each in rounds] == steps
    accuracy = rounds[2]["held_out"]
    right = [each.margin > 0 for each in studied.margins(3, "held-out-margins")]
    assert (accuracy["n"], accuracy["accuracy"]) == (len(right), pytest.approx(sum(right) / len(right)))
    assert [each["source"] for each in accuracy["by_source"]] == ["a", "b"]


def test_a_finished_run_loads_no_model_and_does_nothing_again(studied: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded")

    files = [path for path in sorted(studied.result.run.rglob("*.jsonl")) if path.name != "journal.jsonl"]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    monkeypatch.setattr("windvane.engines.models.load_model", refuse)
    again = run_sera(studied.config, console=small.QUIET)
    assert again == studied.result
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    counts = small.read_json(studied.stage("summary.json"))["counts"]
    assert counts["model_calls_reused"] == counts["model_calls"] > 0
