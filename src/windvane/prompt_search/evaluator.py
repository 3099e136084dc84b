"""A system prompt on a query, judged: render, ask the model, ask the judge; no call waits for what it does not need."""

import asyncio
import math

from windvane.engines.protocols import ChatRequest, Reply, Talker
from windvane.engines.sharing import Shared
from windvane.errors import NoReply
from windvane.judging.records import AspectChoice, Judge
from windvane.prompt_search.records import Judged
from windvane.prompt_search.rendering import ExampleSource, NoExamples, render
from windvane.types import Query, Sampling


class Prompted:
    """A model under a system prompt: what the search asks, and what answers users afterwards."""

    def __init__(self, talker: Talker, sampling: Sampling, examples: ExampleSource | None = None) -> None:
        self._talker = talker
        self._sampling = sampling
        self._examples = examples or NoExamples()

    def request(self, system_prompt: str, query: Query) -> ChatRequest:
        """Return the request for one answer."""
        return ChatRequest(render(system_prompt, self._examples.examples_for(query), query), self._sampling)

    async def answer(self, system_prompt: str, query: Query) -> Reply:
        """Return the model's answer; raises what its `Talker` raises."""
        return await self._talker.ask(self.request(system_prompt, query))


class ModelEvaluator:
    """An `Evaluator` of a model and a judge."""

    def __init__(self, model: Prompted, judge: Judge) -> None:
        self._model = model
        self._judge = judge
        self._choices: dict[str, AspectChoice] = {}
        self._ahead: dict[tuple[str, Query], Shared[Reply]] = {}

    async def prepare(self, query: Query) -> None:
        """Have the judge choose the query's aspects."""
        self._choices[query.id] = await self._judge.aspects_for(query)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the scores should know: on how many queries the judge's choice of aspects was of no use."""
        unread = [choice for choice in self._choices.values() if choice.origin == "fallback"]
        if not unread:
            return ()
        names = ", ".join(aspect.name for aspect in unread[0].aspects)
        return (
            f"On {len(unread)} of {len(self._choices)} queries answers were scored on {names}, as the judge's choice "
            f"of aspects could not be read. The first: {unread[0].why}.",
        )

    async def anticipate(self, system_prompt: str, query: Query) -> None:
        """Have the model answer; `evaluate` takes this answer, or this failure."""
        answer = self._ahead[system_prompt, query] = Shared(self._model.answer(system_prompt, query))
        await answer.result()

    async def evaluate(self, system_prompt: str, query: Query) -> Judged:
        """Return the model's answer and its scores.

        The aspects are chosen while the model writes. An answer that is cut off or empty is judged as it is. Where the
        model has no reply to this one request, the evaluation is unscored; where it is gone, `RunFailed` is raised.
        """
        choosing = asyncio.ensure_future(self.prepare(query))
        try:
            ahead = self._ahead.pop((system_prompt, query), None)
            reply = await (ahead.result() if ahead else self._model.answer(system_prompt, query))
            judged = await self._judged(query, reply)
            await choosing  # it is done, unless the judge scores without it
            return judged
        except NoReply as error:
            return Judged(output="", score=None, unscored=f"the model has no answer: {error}")
        finally:
            choosing.cancel()
            await asyncio.gather(choosing, return_exceptions=True)

    async def _judged(self, query: Query, reply: Reply) -> Judged:
        try:
            judgement = await self._judge.judge(query, reply.text)
        except NoReply as error:
            return Judged(
                output=reply.text, score=None, unscored=f"the judge has no reply: {error}", finish=reply.finish
            )
        if judgement.score is not None and not math.isfinite(judgement.score):
            raise ValueError(f"{self._judge.name} scores {judgement.score}; a score is a finite number, or None")
        return Judged(
            output=reply.text,
            score=judgement.score,
            unscored=judgement.unscored,
            aspects=judgement.aspects,
            finish=reply.finish,
        )
