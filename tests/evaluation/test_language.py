from pathlib import Path

import pytest

from tests.evaluation.answers import TopicScorer, answer, query
from windvane.evaluation.language import LanguageScores, language_requests, other_queries, read_language, score_language
from windvane.types import Completion, Prompt, Sampling, ScoreRequest

QUERIES = [query(name) for name in ("tea", "rain", "bread", "snow")]
BEFORE = [answer(f"about {q.id} there is much to say") for q in QUERIES]
AFTER = [answer(f"{q.id} is fine") for q in QUERIES]


def test_every_query_is_the_other_of_exactly_one() -> None:
    queries = [query(str(index)) for index in range(31)]
    for seed in range(20):
        other = other_queries(queries, seed=seed)
        assert sorted(other) == sorted(other.values()) == sorted(q.id for q in queries)
        assert all(own != its for own, its in other.items())
    assert other_queries(queries, seed=0) == other_queries(queries[::-1], seed=0)
    assert other_queries(queries, seed=0) != other_queries(queries, seed=1)


def test_too_few_or_doubled_queries() -> None:
    assert other_queries([], seed=0) == {}
    assert other_queries([query("tea")], seed=0) == {}
    with pytest.raises(ValueError, match="share an id"):
        other_queries([query("tea"), query("tea")], seed=0)


def test_one_request_for_each_prompt_with_all_that_is_measured_under_it() -> None:
    requests = language_requests(QUERIES, BEFORE, AFTER, seed=0)
    assert [request.id for request in requests] == [q.id for q in QUERIES]
    assert all(len(request.request.responses) == len(request.measured) == 4 for request in requests)
    measured = [item for request in requests for item in request.measured]
    assert len(set(measured)) == 16
    for request in requests:
        for item, response in zip(request.measured, request.request.responses, strict=True):
            assert (item.query_id == request.id) == (item.under == "own")
            side = BEFORE if item.side == "before" else AFTER
            assert response == side[[q.id for q in QUERIES].index(item.query_id)]


def test_relevance_is_the_difference_of_means() -> None:
    scorer = TopicScorer()
    scores = score_language(language_requests(QUERIES, BEFORE, AFTER, seed=0), scorer)
    known = read_language(scores)
    assert len(known) == 8
    assert all(value == (-1.0, 2.0) for value in known.values())


def test_an_answer_that_fits_any_question_has_no_relevance() -> None:
    evasive = [answer("it depends on many things") for _ in QUERIES]
    known = read_language(score_language(language_requests(QUERIES, BEFORE, evasive, seed=0), TopicScorer()))
    assert all(value == (-3.0, 0.0) for (_, side), value in known.items() if side == "after")


def test_shards_and_order_do_not_matter() -> None:
    requests = language_requests(QUERIES, BEFORE, AFTER, seed=0)
    whole = read_language(score_language(requests, TopicScorer()))
    shards = [record for request in requests[::-1] for record in score_language([request], TopicScorer())]
    again = [LanguageScores.from_json(record.to_json()) for record in shards]
    assert dict(read_language(again)) == dict(whole)


def test_empty_answers_are_not_measured() -> None:
    empty = Completion(text="", token_ids=(2,), finish="stop")
    nothing = Completion(text="", token_ids=(), finish="length")
    after = [empty, nothing, *AFTER[2:]]
    requests = language_requests(QUERIES, BEFORE, after, seed=0)
    known = read_language(score_language(requests, TopicScorer()))
    assert ("tea", "after") not in known
    assert ("rain", "after") not in known
    assert len(known) == 6


def test_a_prompt_that_nothing_is_left_for_is_left_out() -> None:
    empty = [answer("")] * 4
    assert language_requests(QUERIES, empty, empty, seed=0) == []
    assert len(language_requests(QUERIES, [BEFORE[0], *empty[1:]], empty, seed=0)) == 2


def test_a_single_query_has_no_relevance() -> None:
    known = read_language(score_language(language_requests(QUERIES[:1], BEFORE[:1], AFTER[:1], seed=0), TopicScorer()))
    assert known["tea", "after"] == (-1.0, None)


def test_answers_without_token_ids_are_refused() -> None:
    from_server = Completion(text="tea is fine", token_ids=(), finish="stop")
    with pytest.raises(ValueError, match="after to query 'tea' has no token ids"):
        language_requests(QUERIES, BEFORE, [from_server, *AFTER[1:]], seed=0)


def test_sides_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        language_requests(QUERIES, BEFORE, AFTER[:-1], seed=0)


def test_with_a_model_the_numbers_are_those_of_one_answer_at_a_time(tiny_model_folder: Path) -> None:
    from windvane.engines.local import EngineSettings, LocalEngine, load_model

    engine = LocalEngine(load_model(str(tiny_model_folder), EngineSettings()), EngineSettings())
    before, after = (
        engine.generate([Prompt(q.messages, seed) for q in QUERIES], Sampling(max_new_tokens=12)) for seed in (1, 2)
    )
    known = read_language(score_language(language_requests(QUERIES, before, after, seed=5), engine))
    other = other_queries(QUERIES, seed=5)
    messages = {q.id: q.messages for q in QUERIES}
    assert len(known) == 8
    for q, answered in zip(QUERIES, after, strict=True):
        ((own,), (under_other,)) = engine.score(
            [ScoreRequest(messages[q.id], (answered,)), ScoreRequest(messages[other[q.id]], (answered,))]
        )
        assert known[q.id, "after"].base_logprob == pytest.approx(own.mean, abs=1e-4)
        assert known[q.id, "after"].relevance == pytest.approx(own.mean - under_other.mean, abs=1e-4)
