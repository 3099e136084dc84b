"""Who judges in a round of SeRA, which pairs are kept, and which are added."""

from pathlib import Path

import pytest

from tests.recipes import offline_pairs, small
from tests.recipes.offline_pairs import records
from tests.recipes.sera.runs import Ran, both_sides, close, engine, go, margin, sums
from windvane.bootstrapping import fit_to_rank, sample_candidates
from windvane.selection import PairMargin, SelectionSummary, implicit_margin
from windvane.types import Dropped, Message, Query, Samples


@pytest.mark.parametrize("number", [2, 3])
def test_every_pair_is_kept_or_dropped_and_those_kept_are_the_surest(studied: Ran, number: int) -> None:
    margins = {each.id: each.margin for each in studied.margins(number)}
    kept = records(studied.stage(f"round-{number}/kept.jsonl"), PairMargin)
    dropped = records(studied.stage(f"round-{number}/dropped.jsonl"), Dropped)
    everything = [each.pair.id for each in studied.trained_on(1)]
    assert list(margins) == everything
    assert sorted([each.id for each in kept] + [each.id for each in dropped]) == sorted(everything)
    assert len(kept) == int(0.7 * len(everything) + 0.5)
    assert min(each.margin for each in kept) > max(margins[each.id] for each in dropped)
    assert all(each.reason == "low_margin" and each.detail for each in dropped)
    (said,) = records(studied.stage(f"round-{number}/selection.jsonl"), SelectionSummary)
    assert (said.pairs, said.kept, said.dropped) == (len(everything), len(kept), {"low_margin": len(dropped)})
    assert said.thresholds == {"margin": min(each.margin for each in kept)}
    trained_on = [each.pair for each in studied.trained_on(number)]
    added = [each.pair for each in studied.picked(number).pairs]
    assert [pair.id for pair in trained_on] == [each.id for each in kept] + [pair.id for pair in added]
    before = {each.pair.id: each.pair for each in studied.trained_on(1)}
    assert trained_on == [before[each.id] for each in kept] + added


@pytest.mark.parametrize("number", [2, 3])
def test_margins_are_those_of_the_last_two_policies(studied: Ran, number: int) -> None:
    """γ·m of the last and (1-γ)·m of the one before, each over the first model, in passes of their own."""
    given = [each.pair for each in studied.trained_on(1)]
    reference, last, before = (both_sides(studied.policy(n), given) for n in (0, number - 1, number - 2))
    gamma = studied.config.selection.gamma
    assert gamma == 0.7
    for place, found in enumerate(studied.margins(number)):
        m_last, m_before = (margin(each[place]) - margin(reference[place]) for each in (last, before))
        assert (found.last, found.before) == (close(m_last), close(m_before))
        assert found.margin == close(gamma * m_last + (1 - gamma) * m_before)
    if number == 2:
        assert all(found.before == 0 for found in studied.margins(2))  # the policy before is the reference itself


@pytest.mark.parametrize("number", [2, 3])
def test_gamma_1_is_the_last_policy_alone(otherwise: Ran, number: int) -> None:
    found = otherwise.margins(number)
    assert all(each.margin == each.last and each.before is None for each in found)
    asked = {model for model, _, _ in otherwise.asked}
    assert asked == {str(otherwise.policy(n)) for n in (0, 1, 2)}
    given = [each.pair for each in otherwise.trained_on(1)]
    scores = zip(*(both_sides(otherwise.policy(n), given) for n in (number - 1, 0)), strict=True)
    expected = [margin(last) - margin(reference) for last, reference in scores]
    assert [each.margin for each in found] == [close(value) for value in expected]


@pytest.mark.parametrize("number", [2, 3])
def test_a_source_may_have_a_share_of_its_own(otherwise: Ran, number: int) -> None:
    margins = {each.id: each for each in otherwise.margins(number)}
    kept = {each.id for each in records(otherwise.stage(f"round-{number}/kept.jsonl"), PairMargin)}
    (said,) = records(otherwise.stage(f"round-{number}/selection.jsonl"), SelectionSummary)
    for source, share in {"a": 0.5, "b": 0.75}.items():
        own = sorted((each for each in margins.values() if each.source == source), key=lambda each: -each.margin)
        best = own[: int(share * len(own) + 0.5)]
        assert kept & {each.id for each in own} == {each.id for each in best}
        assert said.thresholds[f"margin of {source}"] == best[-1].margin


@pytest.mark.parametrize("number", [2, 3])
def test_pairs_are_added_from_samples_of_the_last_policy(studied: Ran, number: int) -> None:
    samples = records(studied.stage(f"round-{number}/samples.jsonl"), Samples)
    queries: dict[tuple[Message, ...], Query] = {}
    for each in studied.trained_on(1):
        pair = each.pair
        queries.setdefault(pair.prompt, Query(id=pair.id, messages=pair.prompt, source=pair.source))
    settings = studied.config.bootstrapping
    assert settings is not None

    def sampled(folder: Path) -> list[Samples]:
        seed, stage = studied.config.seed, f"round-{number}"
        return sample_candidates(list(queries.values()), engine(folder), settings, seed=seed, stage=stage)

    assert sampled(studied.policy(number - 1)) == samples
    assert sampled(studied.policy(number - 2)) != samples


@pytest.mark.parametrize("number", [2, 3])
def test_an_added_pair_is_the_best_against_the_worst_by_the_implicit_reward(studied: Ran, number: int) -> None:
    """By γ·r of the last policy and (1-γ)·r of the one before, in passes of their own."""
    pick, gamma = studied.picked(number), studied.config.selection.gamma
    by_query = {each.query_id: each for each in records(studied.stage(f"round-{number}/samples.jsonl"), Samples)}
    assert len(pick.pairs) >= 3
    for each in pick.pairs:
        pair = each.pair
        query = pair.id.removesuffix(f"-round-{number}")
        fit = fit_to_rank(by_query[query], max_repetition=0.4)
        asked = [(pair.prompt, said) for said in fit]
        reference, last, before = (sums(studied.policy(n), asked) for n in (0, number - 1, number - 2))
        rewards = [
            gamma * (now.sum - base.sum) + (1 - gamma) * (then.sum - base.sum)
            for now, then, base in zip(last, before, reference, strict=True)
        ]
        best, worst = fit[rewards.index(max(rewards))], fit[rewards.index(min(rewards))]
        assert (pair.chosen, pair.rejected, pair.iteration) == (best, worst, number)
        assert each.margin == close(max(rewards) - min(rewards))
        assert {pair.chosen.finish, pair.rejected.finish} == {"stop"}
    margins = [each.margin for each in pick.pairs]
    assert margins == sorted(margins, reverse=True)
    names = [*(each.pair.id for each in pick.pairs), *(each.id for each in pick.dropped)]
    assert sorted(name.removesuffix(f"-round-{number}") for name in names) == sorted(by_query)


ADAPTER = ["training.lora={rank: 4}", "training.learning_rate=0.03"]
FORMS = {
    "simpo": ("mean_logp", ["loss={type: simpo}"]),
    "ipo": ("mean_log_ratio", ["loss={type: ipo, beta: 0.2}", *ADAPTER]),
    "slic": ("log_ratio", ["loss={type: slic, beta: 0.1}"]),
    "orpo": ("log_odds", ["loss={type: orpo}"]),
}  # fmt: skip


@pytest.mark.parametrize(("form", "options"), FORMS.values(), ids=FORMS)
def test_each_loss_judges_by_the_reward_that_it_trains(
    form: str, options: list[str], model: Path, pairs: Path, tmp_path: Path
) -> None:
    """Full weights, and an adapter (with IPO); with a reference and without."""
    more = ["rounds=2", "holdout=0.25", offline_pairs.SAMPLES, "bootstrapping.max_prompts=6", "evaluation={}"]
    run = go(model, pairs, tmp_path / "run", *more, "evaluation.max_new_tokens=4", *options)
    assert run.config.reward == form
    compares = form in ("mean_log_ratio", "log_ratio")
    given = [each.pair for each in run.trained_on(1)]
    reference, last = (both_sides(run.policy(number), given) for number in (0, 1))
    expected = [
        implicit_margin(form, mine, base if compares else None)  # type: ignore[arg-type]
        for mine, base in zip(last, reference, strict=True)
    ]
    assert [each.last for each in run.margins(2)] == [close(value) for value in expected]
    assert all((each.reference is not None) == compares for number in (1, 2) for each in run.trained_on(number))
    assert run.stage("reference.jsonl").exists() == compares
    assert len(records(run.stage("round-2/samples.jsonl"), Samples)) == 6
    assert run.weights(1) != run.weights(2)
    queries = records(run.stage("evaluation/queries.jsonl"), Query)
    held_out = {run.pairs()[each.id].prompt for each in run.margins(2, "held-out-margins")}
    assert {query.messages for query in queries} == held_out
    assert run.result.rounds[1].held_out is not None


def test_length_control_sets_a_price_on_tokens(otherwise: Ran, studied: Ran) -> None:
    """At that price best and worst are about as long; the rounds of `studied` have none."""
    prices = [otherwise.picked(number).token_price for number in (2, 3)]
    assert all(prices)
    said = [each["token_price"] for each in small.read_json(otherwise.stage("summary.json"))["rounds"]]
    assert said == [None, *prices]
    free = [each["token_price"] for each in small.read_json(studied.stage("summary.json"))["rounds"]]
    assert free == [None, 0, 0]
    for number in (2, 3):
        pick = otherwise.picked(number)
        asked = [(each.pair.prompt, said) for each in pick.pairs for said in (each.pair.chosen, each.pair.rejected)]
        now, then = (sums(otherwise.policy(n), asked) for n in (number - 1, 0))
        worth = [a.sum - b.sum - pick.token_price * a.tokens for a, b in zip(now, then, strict=True)]
        assert [each.margin for each in pick.pairs] == [
            close(chosen - rejected) for chosen, rejected in zip(worth[::2], worth[1::2], strict=True)
        ]
