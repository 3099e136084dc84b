import asyncio
import json
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from windvane.engines.protocols import ChatRequest, Reply
from windvane.errors import BudgetSpent, NoReply, RunFailed
from windvane.judging.aspects import Aspect
from windvane.judging.records import AspectChoice, AspectJudgement, AspectScore
from windvane.prompt_search.evaluator import ModelEvaluator, Prompted
from windvane.prompt_search.records import Judged
from windvane.prompt_search.rendering import Shown, render, rendered_bytes
from windvane.types import Message, Query, Sampling

SAMPLING = Sampling(64, 0.0)


def asked(text: str, *before: tuple[str, str]) -> Query:
    turns = [*before, ("user", text)]
    return Query.model_validate(
        {"id": text, "messages": [{"role": role, "content": content} for role, content in turns]}
    )


class Example(NamedTuple):
    query: Query
    answer: str


class Nearest:
    """The two examples whose request begins with the same letter."""

    EXAMPLES = (
        Example(asked("apples?"), "Red."),
        Example(asked("ants?"), "Six legs."),
        Example(asked("bees?"), "Wax."),
    )

    def examples_for(self, query: Query) -> Sequence[Shown]:
        return [example for example in self.EXAMPLES if example.query.text[0] == query.text[0]]


class Model:
    name = "model"

    def __init__(self, failure: BaseException | None = None, log: list[str] | None = None) -> None:
        self.requests: list[ChatRequest] = []
        self.failure = failure
        self.log = log if log is not None else []

    async def ask(self, request: ChatRequest) -> Reply:
        self.requests.append(request)
        for _ in range(5):
            await asyncio.sleep(0)
        self.log.append("answered")
        if self.failure is not None:
            raise self.failure
        return Reply(text="an answer", finish="length", prompt_tokens=1, completion_tokens=1)


class Judge:
    name = "judge"

    def __init__(self, score: float | None = 4.0, failure: BaseException | None = None) -> None:
        self.score, self.failure = score, failure
        self.log: list[str] = []

    async def aspects_for(self, query: Query) -> AspectChoice:
        self.log.append(f"choosing for {query.id}")
        await asyncio.sleep(0)
        self.log.append(f"chosen for {query.id}")
        return AspectChoice(query_id=query.id, aspects=(), origin="chosen")

    async def judge(self, query: Query, response: str) -> AspectJudgement:
        self.log.append(f"judging {response}")
        if self.failure is not None:
            raise self.failure
        aspects = (AspectScore(aspect="a", score=self.score, unscored=None if self.score else "unreadable"),)
        return AspectJudgement(
            id=query.id, score=self.score, unscored=None if self.score is not None else "unreadable", aspects=aspects
        )


def roles(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def test_prompt_then_examples_then_query() -> None:
    query = asked("apes?", ("system", "House rules."), ("user", "hi"), ("assistant", "hello"))
    assert roles(render("Be brief.", Nearest().examples_for(query), query)) == [
        ("system", "House rules.\n\nBe brief."),
        ("user", "apples?"),
        ("assistant", "Red."),
        ("user", "ants?"),
        ("assistant", "Six legs."),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "apes?"),
    ]


def test_an_empty_prompt_adds_no_turn() -> None:
    assert roles(render(" \n", (), asked("apes?"))) == [("user", "apes?")]
    query = asked("apes?", ("system", "House rules."))
    assert roles(render("", (), query)) == [("system", "House rules."), ("user", "apes?")]


def test_an_example_s_own_system_message_is_not_shown_again() -> None:
    example = Example(asked("apples?", ("system", "Old rules.")), "Red.")
    assert [role for role, _ in roles(render("New.", [example], asked("b?")))] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


@pytest.mark.parametrize("prompt", ["Be brief.", "", "Ünïcode – “quotes”\n\ttabs and  spaces "])
@pytest.mark.parametrize("text", ["apes?", "bears?", "🐝 and\r\nlines"])
def test_search_and_serving_send_the_same_bytes(prompt: str, text: str) -> None:
    searching, serving = Model(), Model()
    query = asked(text)
    evaluator = ModelEvaluator(Prompted(searching, SAMPLING, Nearest()), Judge())
    asyncio.run(evaluator.evaluate(prompt, query))
    asyncio.run(Prompted(serving, SAMPLING, Nearest()).answer(prompt, query))
    rendered = rendered_bytes(render(prompt, Nearest().examples_for(query), query))
    sent = [rendered_bytes(model.requests[0].messages) for model in (searching, serving)]
    assert sent == [rendered, rendered]
    assert [(turn["role"], turn["content"]) for turn in json.loads(rendered)][-1] == ("user", text)
    assert searching.requests == serving.requests


def test_an_evaluation_has_the_answer_the_score_and_the_aspects() -> None:
    model = Model()
    found = asyncio.run(ModelEvaluator(Prompted(model, SAMPLING), Judge()).evaluate("Be brief.", asked("apes?")))
    assert (found.output, found.score, found.value, found.unscored, found.finish) == ("an answer", 4, 4, None, "length")
    assert [aspect.score for aspect in found.aspects] == [4]
    assert model.requests[0].sampling == SAMPLING


def test_aspects_are_chosen_while_the_model_writes() -> None:
    judge = Judge()
    asyncio.run(ModelEvaluator(Prompted(Model(log=judge.log), SAMPLING), judge).evaluate("", asked("q")))
    assert judge.log == ["choosing for q", "chosen for q", "answered", "judging an answer"]


def test_what_cannot_be_scored_has_no_score() -> None:
    found = asyncio.run(ModelEvaluator(Prompted(Model(), SAMPLING), Judge(None)).evaluate("", asked("q")))
    assert (found.score, found.unscored, found.output) == (None, "unreadable", "an answer")


def test_one_request_without_a_reply_is_unscored_and_judged_by_nobody() -> None:
    judge = Judge()
    evaluator = ModelEvaluator(Prompted(Model(NoReply("timed out")), SAMPLING), judge)
    found = asyncio.run(evaluator.evaluate("", asked("q")))
    assert (found.score, found.unscored) == (None, "the model has no answer: timed out")
    assert not any(line.startswith("judging") for line in judge.log)
    evaluator = ModelEvaluator(Prompted(Model(), SAMPLING), Judge(failure=NoReply("timed out")))
    found = asyncio.run(evaluator.evaluate("", asked("q")))
    assert (found.score, found.unscored, found.output) == (None, "the judge has no reply: timed out", "an answer")


def test_an_answer_that_was_asked_for_ahead_is_not_asked_for_again() -> None:
    async def evaluated(model: Model) -> Judged:
        evaluator = ModelEvaluator(Prompted(model, SAMPLING), Judge())
        ahead = asyncio.ensure_future(evaluator.anticipate("Be brief.", asked("q")))
        await asyncio.sleep(0)
        found = await evaluator.evaluate("Be brief.", asked("q"))
        await asyncio.gather(ahead, return_exceptions=True)
        return found

    model = Model()
    assert asyncio.run(evaluated(model)).output == "an answer"
    assert len(model.requests) == 1
    lost = Model(NoReply("timed out"))
    assert asyncio.run(evaluated(lost)).unscored == "the model has no answer: timed out"
    assert len(lost.requests) == 1


def test_aspects_that_the_judge_did_not_choose_are_said() -> None:
    class Mumbling(Judge):
        async def aspects_for(self, query: Query) -> AspectChoice:
            if query.id == "clear":
                return AspectChoice(query_id=query.id, aspects=(), origin="chosen")
            aspects = (Aspect(name="Clarity", definition="how clear it is"), Aspect(name="Wit", definition="how witty"))
            return AspectChoice(query_id=query.id, aspects=aspects, origin="fallback", why="it names 0 of the aspects")

    class OnFile(Model):
        async def ask(self, request: ChatRequest) -> Reply:
            return Reply(text="an answer", finish="stop", prompt_tokens=1, completion_tokens=1)

    async def noted(model: Model, *queries: str) -> tuple[str, ...]:
        evaluator = ModelEvaluator(Prompted(model, SAMPLING), Mumbling())
        for query in queries:
            await evaluator.evaluate("", asked(query))
        return evaluator.notes

    said = (
        "On 1 of 2 queries answers were scored on Clarity, Wit, as the judge's choice of aspects could not be read. "
        "The first: it names 0 of the aspects.",
    )
    for model in (Model(), OnFile()):  # one that is waited for, and one that answers at once
        assert asyncio.run(noted(model, "clear")) == ()
        assert asyncio.run(noted(model, "clear", "odd", "odd")) == said


@pytest.mark.parametrize("failure", [RunFailed("gone"), BudgetSpent("no room")])
def test_a_server_that_is_gone_and_a_spent_budget_are_raised(failure: Exception) -> None:
    for evaluator in (
        ModelEvaluator(Prompted(Model(failure), SAMPLING), Judge()),
        ModelEvaluator(Prompted(Model(), SAMPLING), Judge(failure=failure)),
    ):
        with pytest.raises(type(failure)):
            asyncio.run(evaluator.evaluate("", asked("q")))


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="judge scores -inf"):
        asyncio.run(ModelEvaluator(Prompted(Model(), SAMPLING), Judge(float("-inf"))).evaluate("", asked("q")))
