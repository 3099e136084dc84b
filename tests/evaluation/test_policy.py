import pytest
from pydantic import ValidationError

from tests.evaluation.answers import TopicScorer, answer, query
from windvane.errors import DataError
from windvane.evaluation.intervals import wilson_interval
from windvane.evaluation.language import LanguageScores, language_requests, score_language
from windvane.evaluation.policy import (
    Evaluation,
    EvaluationSettings,
    Limits,
    answer_prompts,
    concerns,
    evaluate,
)
from windvane.judging.rules import Shorter, Structured
from windvane.types import Completion, Query, Sampling

DESIGN_FIELDS = [
    "n",
    "win_rate",
    "win_rate_ci",
    "mean_words_before",
    "mean_words_after",
    "cutoff_share_before",
    "cutoff_share_after",
    "empty_after",
    "base_logprob_before",
    "base_logprob_after",
    "relevance_before",
    "relevance_after",
    "distinct2_before",
    "distinct2_after",
]

QUERIES = [query(name) for name in ("tea", "rain", "bread", "snow")]
BEFORE = [
    answer("tea is a drink that many people like", cut=True),  # 8 words
    answer("rain falls"),  # 2
    answer("bread is made of\n- flour\n- water"),  # 8
    answer("snow is cold"),  # 3
]
AFTER = [
    answer("tea is good"),  # 3: shorter
    answer("rain falls down"),  # 3: longer
    answer("bread"),  # 1: shorter
    answer("snow is white"),  # 3: tie
]


def measured(before: list[Completion], after: list[Completion], queries: list[Query] = QUERIES) -> list[LanguageScores]:
    return score_language(language_requests(queries, before, after, seed=0), TopicScorer())


def evaluated(before: list[Completion], after: list[Completion], queries: list[Query] = QUERIES) -> Evaluation:
    return evaluate(queries, before, after, measured(before, after, queries), Shorter(), seed=0)


def test_by_hand() -> None:
    result = evaluated(BEFORE, AFTER)
    assert result.n == 4
    assert (result.wins, result.ties, result.losses, result.unscored) == (2, 1, 1, 0)
    assert result.win_rate == 0.625
    assert result.win_rate_ci == wilson_interval(0.625, 4)
    assert (result.mean_words_before, result.mean_words_after) == (5.25, 2.5)
    assert (result.median_words_before, result.median_words_after) == (5.5, 3.0)
    assert (result.cutoff_share_before, result.cutoff_share_after) == (0.25, 0.0)
    assert (result.list_share_before, result.list_share_after) == (0.25, 0.0)
    assert (result.empty_before, result.empty_after) == (0, 0)
    assert (result.base_logprob_before, result.base_logprob_after) == (-1.0, -1.0)
    assert (result.relevance_before, result.relevance_after) == (2.0, 2.0)
    assert (result.language_n_before, result.language_n_after) == (4, 4)
    assert result.distinct2_bigrams == 6
    assert result.distinct2_after == 1.0
    assert result.base_logprob_change_ci == (0.0, 0.0)


def test_the_fields_that_others_rely_on() -> None:
    assert set(DESIGN_FIELDS) <= set(Evaluation.model_fields)
    result = evaluated(BEFORE, AFTER)
    assert Evaluation.from_json(result.to_json()) == result


def test_the_same_answers_change_nothing() -> None:
    result = evaluated(BEFORE, BEFORE)
    assert result.win_rate == 0.5
    assert result.ties == 4
    assert result.mean_words_change_ci == (0.0, 0.0)
    assert result.distinct2_before == result.distinct2_after
    assert concerns(result, Limits()) == []


def test_swapping_the_sides_swaps_the_numbers() -> None:
    forward, backward = evaluated(BEFORE, AFTER), evaluated(AFTER, BEFORE)
    assert forward.win_rate is not None
    assert backward.win_rate == pytest.approx(1 - forward.win_rate)
    for name in Evaluation.model_fields:
        if name.endswith("_before"):
            other = name.removesuffix("_before") + "_after"
            assert getattr(forward, name) == getattr(backward, other)
            assert getattr(forward, other) == getattr(backward, name)


def test_the_order_of_the_queries_does_not_matter() -> None:
    result = evaluated(BEFORE, AFTER)
    turned = evaluated(BEFORE[::-1], AFTER[::-1], QUERIES[::-1])
    for name in (field for field in DESIGN_FIELDS if "ci" not in field):
        assert getattr(turned, name) == getattr(result, name)


def test_an_empty_answer_loses_and_is_no_zero() -> None:
    after = [answer(""), *AFTER[1:]]
    result = evaluated(BEFORE, after)
    assert result.empty_after == 1
    assert (result.wins, result.losses) == (1, 2)
    assert result.language_n_after == 3
    assert result.base_logprob_after == -1.0
    assert result.relevance_after == 2.0
    assert any("1 of 4 answers say nothing" in worry for worry in concerns(result, Limits()))


def test_two_empty_answers_are_unscored() -> None:
    result = evaluated([answer(""), *BEFORE[1:]], [answer(" "), *AFTER[1:]])
    assert result.unscored == 1
    assert (result.wins, result.ties, result.losses) == (1, 1, 1)
    assert result.win_rate == 0.5
    assert result.n == 4


def test_nothing_but_empty_answers() -> None:
    empty = [answer("") for _ in QUERIES]
    result = evaluated(empty, empty)
    assert result.win_rate is None
    assert result.win_rate_ci is None
    assert result.unscored == 4
    assert result.base_logprob_after is None
    assert result.distinct2_after is None
    assert result.distinct2_bigrams == 0
    assert result.mean_words_after == 0.0


def test_without_a_rule_and_without_the_base_model() -> None:
    result = evaluate(QUERIES, BEFORE, AFTER, None, None, seed=0)
    assert (result.win_rate, result.win_rate_ci, result.wins, result.unscored) == (None, None, None, None)
    assert (result.base_logprob_before, result.relevance_after, result.language_n_after) == (None, None, 0)
    assert result.mean_words_after == 2.5


def test_one_query() -> None:
    result = evaluated(BEFORE[:1], AFTER[:1], QUERIES[:1])
    assert result.win_rate == 1.0
    assert result.relevance_after is None
    assert result.base_logprob_after == -1.0
    assert result.mean_words_change_ci is None


def test_no_query_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one query"):
        evaluate([], [], [], None, None, seed=0)


def test_sides_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        evaluate(QUERIES, BEFORE, AFTER[:-1], None, None, seed=0)


def test_by_source() -> None:
    queries = [query(q.id, source) for q, source in zip(QUERIES, ("a", "b", "b", None), strict=True)]
    result = evaluate(queries, BEFORE, AFTER, None, Shorter(), seed=0)
    assert [(row.source, row.n, row.win_rate) for row in result.by_source] == [
        ("a", 1, 1.0),
        ("b", 2, 0.5),
        ("unknown", 1, 0.5),
    ]
    assert result.by_source[1].mean_words_before == 5.0
    assert evaluated(BEFORE, AFTER).by_source == ()


def test_the_seed_moves_intervals_only() -> None:
    queries = [query(str(index)) for index in range(40)]
    before = [answer("word " * (1 + index * index % 17)) for index in range(40)]
    after = [answer("word " * (1 + index % 5)) for index in range(40)]
    first = evaluate(queries, before, after, measured(before, after, queries), Structured(), seed=0)
    second = evaluate(queries, before, after, measured(before, after, queries), Structured(), seed=1)
    assert first.mean_words_change_ci != second.mean_words_change_ci
    without = {name for name in Evaluation.model_fields if name.endswith("_change_ci")}
    assert first.model_dump(exclude=without) == second.model_dump(exclude=without)


def test_concerns_name_what_was_lost() -> None:
    off_topic = [answer("it depends on many things") for _ in QUERIES]
    worries = concerns(evaluated(BEFORE, off_topic), Limits())
    assert len(worries) == 3
    assert "2.00 nats per token less plausible" in worries[0]
    assert "relevance to the query fell from 2.00 to 0.00" in worries[1]
    assert "distinct-2 fell" in worries[2]
    assert (
        concerns(evaluated(BEFORE, off_topic), Limits(base_logprob_drop=3, relevance_ratio=0, distinct2_ratio=0)) == []
    )


def test_a_base_without_relevance_sets_no_limit() -> None:
    numbers = evaluated(BEFORE, AFTER).model_dump() | {"relevance_before": -0.1, "relevance_after": -0.09}
    assert concerns(Evaluation.model_validate(numbers), Limits(distinct2_ratio=0)) == []


def test_both_sides_answer_the_same_prompts_with_seeds_of_their_own() -> None:
    prompts = answer_prompts(QUERIES, seed=7)
    assert [prompt.messages for prompt in prompts] == [q.messages for q in QUERIES]
    assert len({prompt.seed for prompt in prompts}) == 4
    assert prompts == answer_prompts(QUERIES, seed=7)
    assert prompts[0].seed == answer_prompts(QUERIES[:1], seed=7)[0].seed
    assert prompts[0].seed != answer_prompts(QUERIES, seed=8)[0].seed


def test_settings() -> None:
    settings = EvaluationSettings.model_validate(
        {"rule": {"type": "shorter"}, "max_new_tokens": 96, "temperature": 0.0}
    )
    assert settings.rule == Shorter()
    assert settings.sampling == Sampling(max_new_tokens=96, temperature=0.0, top_p=0.8)
    for wrong in (
        {"max_new_tokens": 0},
        {"top_p": 0.0},
        {"temperature": -1.0},
        {"rule": {"type": "nicer"}},
        {"extra": 1},
    ):
        with pytest.raises(ValidationError):
            EvaluationSettings.model_validate(wrong)
