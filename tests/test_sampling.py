"""The three responses to each query: their prompts, their seeds, their order."""

from collections.abc import Sequence

import pytest

from windvane.config import load_config
from windvane.engines.protocols import Advance, no_progress
from windvane.errors import ConfigError
from windvane.sampling import SamplingSettings, sample_responses
from windvane.seeds import derive_seed
from windvane.types import Completion, Message, Principle, Prompt, Query, Sampling


class Echo:
    """Answers with the prompt's conversation and seed."""

    def __init__(self) -> None:
        self.calls: list[list[Prompt]] = []
        self.samplings: list[Sampling] = []

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, advance: Advance = no_progress
    ) -> list[Completion]:
        self.calls.append(list(prompts))
        self.samplings.append(sampling)
        for _ in prompts:
            advance(1)
        return [
            Completion(text=f"{prompt.seed}|{prompt.messages!r}", token_ids=(1, 2), finish="stop") for prompt in prompts
        ]


QUERIES = [Query(id=f"q{i}", messages=(Message(role="user", content=f"What is {i}?"),)) for i in range(5)]
PRINCIPLES = [
    Principle(
        query_id=query.id, features=("Tone",), good=f"Be warm {query.id}.", bad=f"Be cold {query.id}.", origin="bank"
    )
    for query in QUERIES
]


def test_each_role_has_its_own_system_message_and_seed() -> None:
    engine = Echo()
    found = sample_responses(QUERIES, PRINCIPLES, engine, SamplingSettings(), seed=7)
    assert [item.query_id for item in found] == [query.id for query in QUERIES]
    good, bad, original = engine.calls
    for index, query in enumerate(QUERIES):
        principle = PRINCIPLES[index]
        assert good[index].messages == (Message(role="system", content=principle.good), *query.messages)
        assert bad[index].messages == (Message(role="system", content=principle.bad), *query.messages)
        assert original[index].messages == query.messages
        for role, completion in (
            ("good", found[index].good),
            ("bad", found[index].bad),
            ("original", found[index].original),
        ):
            assert completion.text.startswith(f"{derive_seed(7, 'responses', query.id, role)}|")


def test_settings_reach_the_engine() -> None:
    engine = Echo()
    settings = SamplingSettings(max_new_tokens=9, temperature=0.3, top_p=0.4)
    sample_responses(QUERIES, PRINCIPLES, engine, settings, seed=0)
    assert set(engine.samplings) == {Sampling(max_new_tokens=9, temperature=0.3, top_p=0.4)}


def test_the_papers_values_are_the_defaults() -> None:
    assert SamplingSettings().sampling()[1:] == (0.7, 0.8)


def test_does_not_depend_on_the_batch_but_on_seed_and_stage() -> None:
    whole = sample_responses(QUERIES, PRINCIPLES, Echo(), SamplingSettings(), seed=0)
    alone = [
        sample_responses([query], [principle], Echo(), SamplingSettings(), seed=0)[0]
        for query, principle in zip(QUERIES, PRINCIPLES, strict=True)
    ]
    assert whole == alone
    assert whole != sample_responses(QUERIES, PRINCIPLES, Echo(), SamplingSettings(), seed=1)
    assert whole != sample_responses(QUERIES, PRINCIPLES, Echo(), SamplingSettings(), seed=0, stage="iteration-2")


def test_a_system_message_of_the_query_comes_first() -> None:
    query = Query(id="q0", messages=(Message(role="system", content="You are a cook."), *QUERIES[0].messages))
    engine = Echo()
    sample_responses([query], PRINCIPLES[:1], engine, SamplingSettings(), seed=0)
    system = engine.calls[0][0].messages[0].content
    assert system.startswith("You are a cook.")
    assert system.endswith("Be warm q0.")
    assert len(engine.calls[0][0].messages) == 2


def test_progress_counts_whole_queries() -> None:
    counted: list[int] = []
    sample_responses(QUERIES, PRINCIPLES, Echo(), SamplingSettings(), seed=0, advance=counted.append)
    assert counted == [1] * len(QUERIES)


def test_principles_of_other_queries_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'q1'.*'q0'"):
        sample_responses(QUERIES[:1], PRINCIPLES[1:2], Echo(), SamplingSettings(), seed=0)
    with pytest.raises(ValueError, match="shorter"):
        sample_responses(QUERIES, PRINCIPLES[:2], Echo(), SamplingSettings(), seed=0)


def test_no_queries_no_responses() -> None:
    assert sample_responses([], [], Echo(), SamplingSettings(), seed=0) == []


@pytest.mark.parametrize("override", ["max_new_tokens=0", "temperature=-1", "top_p=0", "top_p=1.1", "topp=0.5"])
def test_values_out_of_range_are_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        load_config(SamplingSettings, None, [override])
