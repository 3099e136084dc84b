"""Pairs from the policy's own samples: who may stand in one, best against worst, and the price of length."""

import math
import random
from collections import Counter
from itertools import product
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydantic import ValidationError

from windvane.bootstrapping import (
    BootstrapPick,
    BootstrapSettings,
    RankedSamples,
    best_against_worst,
    fit_to_rank,
    length_price,
    sample_candidates,
)
from windvane.engines.scripted import ScriptedEngine
from windvane.sampling import SamplingSettings
from windvane.types import Completion, Message, Query, Samples

Finish = Literal["stop", "length"]


def query(name: str) -> Query:
    return Query(id=name, messages=(Message(role="user", content=f"What about {name}?"),), source="forum")


def said(text: str, finish: Finish = "stop", tokens: int = 4) -> Completion:
    return Completion(text=text, token_ids=tuple(range(tokens)), finish=finish)


def texts(*responses: Completion, max_repetition: float = 0.4) -> list[str]:
    samples = Samples(query_id="q", responses=responses)
    return [response.text for response in fit_to_rank(samples, max_repetition=max_repetition)]


def ranked(name: str, *responses: tuple[float, int]) -> RankedSamples:
    """Return responses to one prompt, each as (reward, tokens)."""
    return RankedSamples(
        query(name),
        tuple(said(f"answer {number}", tokens=tokens) for number, (_, tokens) in enumerate(responses)),
        tuple(reward for reward, _ in responses),
    )


def picked(*given: RankedSamples, count: int = 99, length_control: bool = False) -> BootstrapPick:
    return best_against_worst(given, count=count, length_control=length_control, iteration=2)


def names(pick: BootstrapPick) -> list[str]:
    return [each.pair.id.removesuffix("-round-2") for each in pick.pairs]


def reasons(pick: BootstrapPick) -> dict[str, str]:
    return {record.id.removesuffix("-round-2"): record.reason for record in pick.dropped}


def test_what_ended_by_itself_and_says_something_may_stand_in_a_pair() -> None:
    assert texts(said("Rain."), said("It goes on and", "length"), said("Sun.")) == ["Rain.", "Sun."]
    assert texts(said(""), said(" \n"), said("..."), said("42")) == ["42"]
    assert texts(said("Rain falls and falls. " * 12), said("Rain.")) == ["Rain."]
    assert texts(said("It goes on", "length")) == []
    assert texts() == []


def test_looping_is_beyond_the_limit_not_at_it() -> None:
    half = said("a" * 21)  # two windows of 20, the same
    assert texts(half, max_repetition=0.5) == [half.text]
    assert texts(half, max_repetition=0.49) == []


def test_each_text_once_but_for_whitespace() -> None:
    assert texts(said("It  rains.\n"), said("Sun."), said("It rains."), said("it rains.")) == [
        "It  rains.\n",
        "Sun.",
        "it rains.",
    ]
    # a copy that was cut off does not stand in for the one that ended
    assert texts(said("It rains.", "length"), said("It rains.")) == ["It rains."]


def test_best_against_worst_by_hand() -> None:
    given = ranked("q", (0.5, 3), (2.0, 5), (-1.0, 7), (1.0, 9))
    pick = picked(given)
    (made,) = pick.pairs
    assert made.margin == 3.0
    assert (made.pair.chosen, made.pair.rejected) == (given.responses[1], given.responses[2])
    assert made.pair.prompt == given.query.messages
    assert (made.pair.source, made.pair.iteration, made.pair.original) == ("forum", 2, None)
    assert (pick.dropped, pick.token_price) == ((), 0.0)


def test_among_equal_rewards_the_first_response_stands() -> None:
    given = ranked("q", (0, 1), (1, 2), (1, 3), (-1, 4), (-1, 5))
    (made,) = picked(given).pairs
    assert (made.pair.chosen, made.pair.rejected) == (given.responses[1], given.responses[3])


def test_a_tie_is_no_pair() -> None:
    pick = picked(ranked("tie", (1.5, 3), (1.5, 4), (1.5, 9)), ranked("pair", (1, 3), (0, 3)))
    assert names(pick) == ["pair"]
    assert reasons(pick) == {"tie": "tie"}


def test_less_than_two_responses_are_no_pair() -> None:
    pick = picked(ranked("none"), ranked("one", (1, 3)), ranked("two", (1, 3), (0, 3)))
    assert names(pick) == ["two"]
    assert [(each.id, each.reason, each.detail) for each in pick.dropped] == [
        ("none", "too_few", "0 usable responses"),
        ("one", "too_few", "1 usable responses"),
    ]


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("length_control", [False, True])
def test_a_reward_that_is_no_number_makes_no_pair_and_no_price(reward: float, length_control: bool) -> None:
    fine = ranked("fine", (1, 30), (0, 10))
    pick = picked(ranked("odd", (1, 3), (reward, 9), (0, 5)), fine, length_control=length_control)
    assert names(pick) == ["fine"]
    assert reasons(pick) == {"odd": "not_finite"}
    assert pick.token_price == (length_price([fine]) if length_control else 0)


def test_the_count_goes_by_margin_and_among_equals_by_id() -> None:
    given = [ranked(name, (margin, 3), (0, 3)) for name, margin in (("c", 1), ("b", 2), ("d", 1), ("a", 1), ("e", 3))]
    for order in (given, given[::-1], random.Random(3).sample(given, 5)):
        pick = picked(*order, count=3)
        assert names(pick) == ["e", "b", "a"]
        assert reasons(pick) == {"c": "low_margin", "d": "low_margin"}
    assert names(picked(*given)) == ["e", "b", "a", "c", "d"]
    assert names(picked(*given, count=0)) == []
    assert set(reasons(picked(*given, count=0)).values()) == {"low_margin"}


def test_dropped_records_name_the_prompt_whatever_the_reason() -> None:
    pick = picked(
        ranked("few", (1, 3)), ranked("odd", (math.nan, 3), (0, 3)), ranked("tie", (1, 3), (1, 4)),
        ranked("low", (1, 3), (0, 3)), ranked("high", (2, 3), (0, 3)), count=1,
    )  # fmt: skip
    assert {record.id: record.reason for record in pick.dropped} == {
        "few": "too_few",
        "odd": "not_finite",
        "tie": "tie",
        "low": "low_margin",
    }


def test_ids_differ_over_prompts_and_rounds() -> None:
    prompts = [ranked(name, (1, 3), (0, 3)) for name in ("q", "q-round-2", "q-round", "q-round-2-round-2")]
    made = [
        each.pair.id
        for number in (2, 3, 12)
        for each in best_against_worst(prompts, count=9, length_control=False, iteration=number).pairs
    ]
    assert len(set(made)) == len(made) == 12


REWARDS = st.one_of(st.integers(-4, 4).map(float), st.floats(-9, 9), st.just(math.nan))
RESPONSES = st.lists(st.tuples(REWARDS, st.integers(1, 9)), max_size=4)
PROMPTS = st.lists(RESPONSES, max_size=6).map(
    lambda rows: [ranked(f"q{number}", *row) for number, row in enumerate(rows)]
)


@profile(deadline=None)
@given(prompts=PROMPTS, count=st.integers(0, 7), length_control=st.booleans(), seed=st.integers(0, 99))
def test_every_prompt_is_a_pair_or_dropped_once_in_any_order(
    prompts: list[RankedSamples], count: int, length_control: bool, seed: int
) -> None:
    pick = picked(*prompts, count=count, length_control=length_control)
    gone = [record.id.removesuffix("-round-2") for record in pick.dropped]
    assert Counter(names(pick) + gone) == Counter(each.query.id for each in prompts)
    assert len(pick.pairs) <= count
    margins = [each.margin for each in pick.pairs]
    assert margins == sorted(margins, reverse=True)
    assert all(margin > 0 for margin in margins)
    shuffled = random.Random(seed).sample(prompts, len(prompts))
    other = picked(*shuffled, count=count, length_control=length_control)
    assert other.pairs == pick.pairs
    assert reasons(other) == reasons(pick)
    assert BootstrapPick.from_json(pick.to_json()) == pick


def left_over(pick: BootstrapPick) -> int:
    """Return by how many tokens all chosen responses differ from all rejected ones."""
    return abs(sum(len(each.pair.chosen.token_ids) - len(each.pair.rejected.token_ids) for each in pick.pairs))


def test_a_price_that_makes_mean_lengths_equal_by_hand() -> None:
    # The long answer of a is worth 1 more for 20 tokens more, that of b 2 more for 20: dear above 0.05 and above 0.1.
    a, b = ranked("a", (1, 30), (0, 10)), ranked("b", (2, 30), (0, 10))
    free = picked(a, b)
    assert [len(each.pair.chosen.token_ids) for each in free.pairs] == [30, 30]
    pick = picked(a, b, length_control=True)
    price = pick.token_price
    assert 0.05 < price < 0.1
    made = {each.pair.prompt: each for each in pick.pairs}
    short, long = made[a.query.messages], made[b.query.messages]
    assert (short.pair.chosen, short.pair.rejected) == (a.responses[1], a.responses[0])
    assert (long.pair.chosen, long.pair.rejected) == (b.responses[0], b.responses[1])
    assert short.margin == pytest.approx(20 * price - 1)
    assert long.margin == pytest.approx(2 - 20 * price)


def test_the_price_is_that_of_all_prompts_whichever_pairs_are_kept() -> None:
    """Equal lengths are promised over what was ranked; over the pairs that are kept they may differ."""
    given = [ranked("a", (1, 30), (0, 10)), ranked("b", (2, 30), (0, 10)), ranked("c", (9, 5), (0, 5))]
    every, two, one = (picked(*given, count=count, length_control=True) for count in (3, 2, 1))
    assert every.token_price == two.token_price == one.token_price == length_price(given)
    assert left_over(every) == 0
    assert names(two)[0] == names(one)[0] == "c"
    assert left_over(two) == 20  # b or a alone, beside c, whose responses are of one length
    assert left_over(one) == 0


def test_a_price_below_zero_where_the_best_are_shorter() -> None:
    given = [ranked("a", (0, 30), (1, 10)), ranked("b", (0, 30), (2, 10))]
    pick = picked(*given, length_control=True)
    assert -0.1 < pick.token_price < -0.05
    assert left_over(pick) == 0


def test_where_lengths_cannot_be_equal_they_are_as_close_as_can_be() -> None:
    # 20 + 8 tokens longer for free, 8 - 20 between 0.05 and 0.25, -28 above
    given = [ranked("a", (1, 30), (0, 10)), ranked("b", (2, 18), (0, 10))]
    assert 0.05 < length_price(given) < 0.25


@pytest.mark.parametrize(
    "given",
    [
        [],
        [ranked("same", (1, 7), (0, 7)), ranked("also", (3, 2), (1, 2), (2, 2))],
        [ranked("alone", (1, 7))],
        [ranked("middle", (3, 5), (0, 5), (1, 9))],  # best and worst are of one length as they are
        [ranked("up", (1, 3), (0, 2)), ranked("down", (1, 2), (0, 3))],
    ],
    ids=["none", "equal lengths", "one response", "equal ends", "balanced"],
)
def test_nothing_to_trade_has_no_price(given: list[RankedSamples]) -> None:
    assert length_price(given) == 0


def test_no_price_where_any_would_bring_the_lengths_no_closer() -> None:
    # longer by 1 token below a price of 0.5, shorter by 1 above: nothing is gained by paying
    assert length_price([ranked("q", (0.5, 2), (0, 1))]) == 0
    assert length_price([ranked("q", (0.5, 1), (0, 2))]) == 0


def excess(prompts: list[RankedSamples], price: float) -> int:
    """Return by how many tokens the best are longer than the worst, at a price where no two are worth the same."""
    total = 0
    for each in prompts:
        values = [
            (reward - price * len(said.token_ids), len(said.token_ids))
            for reward, said in zip(each.rewards, each.responses, strict=True)
        ]
        total += max(values)[1] - min(values)[1]
    return total


DIFFERENT = st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 9)), min_size=2, max_size=4, unique_by=lambda v: v[0])
GROUPS = st.lists(DIFFERENT, min_size=1, max_size=5).map(
    lambda rows: [ranked(f"q{number}", *row) for number, row in enumerate(rows)]
)
GRID = [(step + math.sqrt(0.5)) / 20 for step in range(-380, 380)]
"""Prices from -19 to 19; none of them is a ratio of whole numbers, at which two responses could be worth the same."""


@profile(deadline=None)
@given(prompts=GROUPS)
def test_no_other_price_brings_the_lengths_closer(prompts: list[RankedSamples]) -> None:
    price = length_price(prompts)
    least = abs(excess(prompts, price))
    assert least <= min(abs(excess(prompts, other)) for other in (0.0, *GRID))
    pick = picked(*prompts, length_control=True)
    assert len(pick.pairs) == len(prompts)
    assert left_over(pick) == least


@profile(deadline=None)
@given(prompts=GROUPS)
def test_length_is_never_paid_for_where_the_best_are_longer_and_never_charged_where_they_are_shorter(
    prompts: list[RankedSamples],
) -> None:
    free, price = excess(prompts, 0.0), length_price(prompts)
    assert price == 0 or (price > 0) == (free > 0)
    assert free or price == 0


@profile(deadline=None)
@given(prompts=GROUPS, bias=st.integers(-3, 3))
def test_what_a_reward_pays_for_length_the_price_takes_back(prompts: list[RankedSamples], bias: int) -> None:
    biased = [
        each._replace(
            rewards=tuple(
                reward + bias * len(said.token_ids) for reward, said in zip(each.rewards, each.responses, strict=True)
            )
        )
        for each in prompts
    ]
    assert left_over(picked(*biased, length_control=True)) <= left_over(picked(*prompts, length_control=True))


SETTINGS = BootstrapSettings(samples=3, sampling=SamplingSettings(max_new_tokens=64))


def engine() -> ScriptedEngine:
    """An engine whose answer names the prompt and the seed that it was asked with."""
    return ScriptedEngine(lambda prompt: f"{prompt.messages[-1].content} {prompt.seed}")


def sampled(*queries: Query, seed: int = 0, stage: str = "round-2") -> list[Samples]:
    return sample_candidates(queries, engine(), SETTINGS, seed=seed, stage=stage)


def test_every_query_has_its_samples_in_order() -> None:
    queries = [query(name) for name in "abcd"]
    found = sampled(*queries)
    assert [each.query_id for each in found] == ["a", "b", "c", "d"]
    for each, asked in zip(found, queries, strict=True):
        assert len(each.responses) == 3
        assert all(response.text.startswith(f"{asked.text} ") for response in each.responses)
    assert sampled() == []


def test_a_sample_does_not_depend_on_batch_or_order() -> None:
    queries = [query(name) for name in "abcd"]
    together = sampled(*queries)
    assert [sampled(each)[0] for each in queries] == together
    assert sampled(*queries[::-1])[::-1] == together
    fewer = sample_candidates(queries, engine(), BootstrapSettings(samples=2), seed=0, stage="round-2")
    assert [each.responses for each in fewer] == [each.responses[:2] for each in together]


def test_query_number_stage_and_run_each_have_a_seed_of_their_own() -> None:
    seeds = [
        response.text.split()[-1]
        for seed, stage in product((0, 1), ("round-2", "round-3"))
        for each in sampled(query("a"), query("b"), seed=seed, stage=stage)
        for response in each.responses
    ]
    assert len(set(seeds)) == len(seeds) == 2 * 2 * 2 * 3


def test_samples_are_drawn_as_asked_and_progress_counts_them() -> None:
    heard: list[int] = []
    short = BootstrapSettings(samples=2, sampling=SamplingSettings(max_new_tokens=5))
    found = sample_candidates([query("a")], engine(), short, seed=0, stage="s", advance=heard.append)
    assert [response.finish for response in found[0].responses] == ["length", "length"]
    assert sum(heard) == 2
    assert fit_to_rank(found[0], max_repetition=0.4) == ()


@pytest.mark.parametrize(
    "given",
    [
        {"samples": 1},
        {"share": 0},
        {"share": 1.5},
        {"max_prompts": 0},
        {"max_repetition": 1.5},
        {"length_control": "much"},
        {"sample": 4},
    ],
)
def test_bad_settings_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(given))):
        BootstrapSettings.model_validate(given)
