"""SSO from queries to an aligned model: who samples, who scores, who is the reference, and what the summary says."""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file

from tests.recipes import small
from windvane.data import load_queries
from windvane.data.source import DataSource
from windvane.engines.local import LocalEngine
from windvane.engines.models import load_model
from windvane.engines.settings import EngineSettings
from windvane.recipes.contrast import score_pairs
from windvane.recipes.sso import SSOConfig, SSOResult, run_sso
from windvane.sampling import sample_responses
from windvane.types import Pair, PairScores, Principle, Query, ResponseSet, ScoredPair

SUMMARY = {
    "method", "model", "seed", "windvane_version", "started", "finished", "minutes", "stages", "counts", "policy",
    "iterations", "evaluation", "prompt_effect",
}  # fmt: skip
COUNTS = {
    "queries", "pairs_made", "pairs_kept", "dropped", "model_calls", "model_calls_reused", "tokens_generated",
    "tokens_scored",
}  # fmt: skip
ITERATION = {
    "pair_accuracy", "pair_accuracy_kept", "onpolicy_prob_chosen", "onpolicy_prob_rejected", "gap_chosen",
    "gap_rejected", "mean_words_chosen", "mean_words_rejected", "final_loss",
}  # fmt: skip
EVALUATION = {
    "n", "win_rate", "win_rate_ci", "mean_words_before", "mean_words_after", "cutoff_share_before",
    "cutoff_share_after", "empty_after", "base_logprob_before", "base_logprob_after", "relevance_before",
    "relevance_after", "distinct2_before", "distinct2_after",
}  # fmt: skip
"""The fields that users and scripts build on; more may stand beside them, none of these may go."""


class Ran(NamedTuple):
    config: SSOConfig
    result: SSOResult

    def stage(self, name: str) -> Path:
        return self.result.run / name


def go(model: Path, queries: Path, output: Path, *more: str, example: str = "sso") -> Ran:
    config = small.load(SSOConfig, example, small.sso_overrides(model, queries, output, *more))
    return Ran(config, run_sso(config, console=small.QUIET))


@pytest.fixture(scope="module")
def direct(model: Path, queries: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Three iterations of version 1."""
    return go(
        model, queries, tmp_path_factory.mktemp("direct") / "run", "max_queries=12", "evaluation.rule.type=shorter"
    )


@pytest.fixture(scope="module")
def initial(model: Path, queries: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The same, two iterations, with the first model as the reference of both."""
    folder = tmp_path_factory.mktemp("initial") / "run"
    return go(model, queries, folder, "max_queries=12", "iterations=2", "reference=initial", "evaluation=null")


@pytest.fixture(scope="module")
def generator(model: Path, queries: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Version 2: a data generator writes the pairs."""
    more = [each.replace("training.", "generator.training.", 1) for each in small.TRAINING]
    choice = "principles={type: generated, scope: query, choice: random, max_new_tokens: 16}"
    folder = tmp_path_factory.mktemp("generator") / "run"
    return go(model, queries, folder, choice, "max_queries=8", *more, example="sso-generator")


def engine(model: Path) -> LocalEngine:
    settings = EngineSettings()
    return LocalEngine(load_model(str(model), settings), settings)


def close(ours: PairScores, theirs: PairScores) -> bool:
    """Whether two passes measured the same, to the last digits of float32."""
    pairs = zip(ours.model_dump().values(), theirs.model_dump().values(), strict=True)
    return all(one == other or one["sum"] == pytest.approx(other["sum"], abs=1e-4) for one, other in pairs)


def test_the_summary_has_the_fields_that_others_rely_on(direct: Ran) -> None:
    summary = small.read_json(direct.stage("summary.json"))
    assert set(summary) == SUMMARY | {"mode", "reference"}
    assert set(summary["counts"]) == COUNTS
    assert [ITERATION - set(iteration) for iteration in summary["iterations"]] == [set()] * 3
    assert EVALUATION - set(summary["evaluation"]) == set()
    assert (summary["method"], summary["mode"], summary["reference"]) == ("sso", "direct", "previous")
    assert summary["policy"] == str(direct.result.policy) == str(direct.stage("iteration-3/policy"))
    assert 0 <= summary["evaluation"]["win_rate"] <= 1
    assert summary["evaluation"]["win_rate_ci"][0] <= summary["evaluation"]["win_rate_ci"][1]


def test_counts_agree_with_what_is_on_file(direct: Ran) -> None:
    counts = small.read_json(direct.stage("summary.json"))["counts"]
    stages = [direct.stage(f"iteration-{number}") for number in (1, 2, 3)]
    pairs = [pair for stage in stages for pair in small.records(stage / "pairs.jsonl", Pair)]
    kept = [pair for stage in stages for pair in small.records(stage / "kept.jsonl", ScoredPair)]
    responses = [each for stage in stages for each in small.records(stage / "responses.jsonl", ResponseSet)]
    assert counts["queries"] == len(responses) == 12
    assert counts["pairs_made"] == len(pairs)
    assert counts["pairs_kept"] == len(kept)
    assert len(pairs) + sum(counts["dropped"].values()) == 12  # no pair is filtered here
    # Three responses a query, three prompts to score a pair under, then two answers and their reading at the end.
    answers = 2 * len(small.records(direct.stage("evaluation/queries.jsonl"), Query))
    language = small.read_json(direct.stage(".windvane/stages/evaluation/language.json"))["counts"]["model_calls"]
    assert counts["model_calls"] == 3 * 12 + 3 * len(pairs) + answers + language
    sampled = [side for each in responses for side in (each.good, each.bad, each.original)]
    assert counts["tokens_generated"] >= sum(len(side.token_ids) for side in sampled)


def test_no_query_is_in_two_splits(direct: Ran, queries: Path) -> None:
    parts = [small.records(direct.stage(f"iteration-{n}/principles.jsonl"), Principle) for n in (1, 2, 3)]
    held_out = small.records(direct.stage("evaluation/queries.jsonl"), Query)
    ids = [principle.query_id for part in parts for principle in part] + [query.id for query in held_out]
    assert [len(part) for part in parts] == [4, 4, 4]
    assert len(held_out) == 4
    assert len(set(ids)) == len(ids) == 16
    assert set(ids) <= {query.id for query in load_queries(DataSource(path=str(queries)))}


def test_held_out_queries_are_in_no_training_pair(direct: Ran) -> None:
    held_out = {query.messages for query in small.records(direct.stage("evaluation/queries.jsonl"), Query)}
    for number in (1, 2, 3):
        for scored in small.records(direct.stage(f"iteration-{number}/kept.jsonl"), ScoredPair):
            assert scored.pair.prompt not in held_out


def test_pairs_say_which_iteration_they_are_of(direct: Ran) -> None:
    for number in (1, 2, 3):
        kept = small.records(direct.stage(f"iteration-{number}/kept.jsonl"), ScoredPair)
        assert {scored.pair.iteration for scored in kept} == {number}


def test_each_iteration_starts_from_the_policy_that_the_last_one_ended_with(direct: Ran, model: Path) -> None:
    starts = [small.read_json(direct.stage(f"iteration-{n}/policy/windvane.json"))["start"] for n in (1, 2, 3)]
    assert starts == [str(model), "iteration-1/policy", "iteration-2/policy"]
    folders = [model, *(direct.stage(start) for start in starts[1:]), direct.result.policy]
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    for earlier, later in pairwise(weights):
        assert max(float((later[name] - earlier[name]).abs().max()) for name in later) > 1e-4


def test_the_policy_of_an_iteration_samples_the_next(direct: Ran, model: Path, queries: Path) -> None:
    stage = direct.stage("iteration-2")
    principles = small.records(stage / "principles.jsonl", Principle)
    by_id = {query.id: query for query in load_queries(DataSource(path=str(queries)))}
    asked = [by_id[principle.query_id] for principle in principles]

    def sampled(folder: Path) -> list[ResponseSet]:
        settings = direct.config.sampling
        return sample_responses(
            asked, principles, engine(folder), settings, seed=direct.config.seed, stage="iteration-2"
        )

    on_file = small.records(stage / "responses.jsonl", ResponseSet)
    assert sampled(direct.stage("iteration-1/policy")) == on_file
    assert sampled(model) != on_file


def test_the_policy_of_an_iteration_scores_the_next(direct: Ran, model: Path) -> None:
    scored = small.records(direct.stage("iteration-2/scored.jsonl"), ScoredPair)
    pairs = [each.pair for each in scored]
    by_policy = score_pairs(pairs, engine(direct.stage("iteration-1/policy")))
    by_base = score_pairs(pairs, engine(model))
    assert all(close(ours.scores, theirs.scores) for ours, theirs in zip(scored, by_policy, strict=True))
    assert not any(close(ours.scores, theirs.scores) for ours, theirs in zip(scored, by_base, strict=True))


def test_the_reference_is_the_previous_policy(direct: Ran) -> None:
    """Before its first step the policy is its reference: no change in the log-probability of either side."""
    for number in (1, 2, 3):
        first = small.metrics(direct.stage(f"iteration-{number}/policy"))[0]
        assert (first["chosen_change"], first["rejected_change"]) == pytest.approx((0, 0), abs=1e-5)


def test_the_first_model_can_stay_the_reference(initial: Ran, model: Path) -> None:
    summary = small.read_json(initial.stage("summary.json"))
    assert summary["reference"] == "initial"
    assert summary["evaluation"] is None
    first, second = (small.metrics(initial.stage(f"iteration-{number}/policy"))[0] for number in (1, 2))
    assert first["chosen_change"] == pytest.approx(0, abs=1e-5)
    assert abs(second["chosen_change"]) > 1e-3
    assert not initial.stage("iteration-1/reference.jsonl").exists()  # the policy's own scores are the reference's
    reference = small.records(initial.stage("iteration-2/reference.jsonl"), ScoredPair)
    by_base = score_pairs([each.pair for each in reference], engine(model))
    assert all(close(ours.scores, theirs.scores) for ours, theirs in zip(reference, by_base, strict=True))
    assert small.read_json(initial.stage("iteration-2/policy/windvane.json"))["start"].endswith("iteration-1/policy")


def test_the_generator_writes_and_the_original_policy_learns(generator: Ran, model: Path, queries: Path) -> None:
    """Version 2: the pairs come from the generator, their scores and the training start from the original policy."""
    stage, trained = generator.stage("iteration-1"), generator.stage("iteration-1/generator/policy")
    note = small.read_json(stage / "policy" / "windvane.json")
    assert note["start"] == str(model)
    assert note["loss"]["type"] == "ipo"
    maker = small.read_json(trained / "windvane.json")
    assert (maker["start"], maker["loss"]["type"]) == (str(model), "sso_generator")
    principles = small.records(stage / "principles.jsonl", Principle)
    assert len(principles) == 8
    assert len(small.records(stage / "generator/principles.jsonl", Principle)) == 4  # query_share: 0.5
    by_id = {query.id: query for query in load_queries(DataSource(path=str(queries)))}
    asked = [by_id[principle.query_id] for principle in principles]
    config = generator.config

    def sampled(folder: Path) -> list[ResponseSet]:
        return sample_responses(
            asked, principles, engine(folder), config.sampling, seed=config.seed, stage="iteration-1"
        )

    on_file = small.records(stage / "responses.jsonl", ResponseSet)
    assert sampled(trained) == on_file
    assert sampled(model) != on_file
    scored = small.records(stage / "scored.jsonl", ScoredPair)
    by_policy = score_pairs([each.pair for each in scored], engine(model))
    assert all(close(ours.scores, theirs.scores) for ours, theirs in zip(scored, by_policy, strict=True))
    summary = small.read_json(generator.stage("summary.json"))
    assert (summary["mode"], summary["policy"]) == ("generator", str(stage / "policy"))


def test_steering_of_nothing_is_the_baseline(model: Path, queries: Path, tmp_path: Path) -> None:
    """SSO with λ = 0 and no W trains PBAA's policy, byte for byte; with λ > 0 another one."""

    def weights(name: str, *loss: str) -> bytes:
        more = ("max_queries=6", "iterations=1", "evaluation=null", *loss)
        return (go(model, queries, tmp_path / name, *more).result.policy / "model.safetensors").read_bytes()

    baseline = weights("pbaa", "loss={type: ipo, beta: 0.2}")
    sso = "loss={type: sso, base: {type: ipo, beta: 0.2}, weight_scope: none, steering_weight: %s}"
    assert weights("none", sso % 0) == baseline
    assert weights("some", sso % 0.5) != baseline


def test_a_run_of_one_step_trains(model: Path, queries: Path, tmp_path: Path) -> None:
    """A warm-up that covers the only step would leave the model as it was, at learning rate 0."""
    ran = go(model, queries, tmp_path / "run", "max_queries=2", "iterations=1", "evaluation=null")
    (only,) = small.metrics(ran.result.policy)
    assert only["learning_rate"] > 0
    before, after = (load_file(folder / "model.safetensors") for folder in (model, ran.result.policy))
    assert max(float((after[name] - before[name]).abs().max()) for name in after) > 1e-4


def test_a_finished_run_loads_no_model_and_does_nothing_again(direct: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded")

    before = {
        path: path.read_bytes() for path in sorted(direct.result.run.rglob("*.jsonl")) if path.name != "journal.jsonl"
    }
    monkeypatch.setattr("windvane.engines.models.load_model", refuse)
    again = run_sso(direct.config, console=small.QUIET)
    assert again.policy == direct.result.policy
    assert again.evaluation == direct.result.evaluation
    assert {path: path.read_bytes() for path in before} == before
    counts = small.read_json(direct.stage("summary.json"))["counts"]
    assert counts["model_calls_reused"] == counts["model_calls"] > 0
