"""A judge that is a model: it chooses the aspects of each query, then scores every answer to it on them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from windvane.config import Settings
from windvane.engines.protocols import ChatRequest, Reply, Talker
from windvane.engines.sharing import Shared
from windvane.errors import ConfigError, NoReply
from windvane.judging.aspects import N_DEFAULT, Aspect, named, read_aspects
from windvane.judging.fences import transcript
from windvane.judging.prompts import Limits, Task, choice_task, score_task, together_task
from windvane.judging.records import AspectChoice, AspectJudgement, AspectScore, summed_up
from windvane.judging.verdicts import Unreadable, complaint, completed, read_choice, read_scores, read_together
from windvane.types import Query, Sampling

T = TypeVar("T")


class _Chosen(Settings):
    """How many aspects a judge may choose."""

    at_least: int = Field(default=2, ge=1)
    """Aspects below which a choice counts as unreadable."""
    at_most: int = Field(default=5, ge=1)
    """Aspects per query; of more the first count. Each costs tokens, and a mean over many moves little."""
    new_at_most: int = Field(default=1, ge=0)
    """Aspects per query that are not on the list and that the judge defines itself; 0 forbids them."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is more than at_most {self.at_most}; lower it or raise at_most")
        return self

    @property
    def limits(self) -> Limits:
        """The numbers, as the requests take them."""
        return Limits(self.at_least, self.at_most, self.new_at_most)


class ChosenAspects(_Chosen):
    """The judge chooses once for each query; all answers to it are scored on the same aspects, and so comparable."""

    type: Literal["chosen"] = "chosen"
    """chosen: one call chooses for a query, one more scores each answer."""
    fallback: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Aspects of a query whose choice cannot be read twice; null is the first three of the list (of windvane's own:
    Helpfulness, Clarity, Factuality). Such a choice is marked as `fallback`."""


class AspectsTogether(_Chosen):
    """One call chooses and scores: half the calls, but two answers to one query may be scored on different aspects."""

    type: Literal["together"] = "together"
    """together: choose and score in one call."""


class FixedAspects(Settings):
    """The same aspects for every query: no call to choose, and nothing that changes from query to query."""

    type: Literal["fixed"] = "fixed"
    """fixed: score every answer on `names`."""
    names: tuple[str, ...] = Field(min_length=1)
    """Names of the list of aspects."""


def _in_short(given: Any) -> Any:
    """Let one word stand for a group: ``chosen``, ``together``."""
    return {"type": given} if isinstance(given, str) else given


class DynamicJudgeSettings(Settings):
    """A judge that is a model."""

    type: Literal["dynamic"] = "dynamic"
    """dynamic: a model chooses what each query's answers are scored on, and scores them."""
    aspects: Path | None = None
    """A YAML file with a list `aspects`, each with a name, a definition and what earns 1, 3 and 5; null takes
    windvane's 14."""
    choice: Annotated[
        ChosenAspects | AspectsTogether | FixedAspects, Field(discriminator="type"), BeforeValidator(_in_short)
    ] = ChosenAspects()
    """Who chooses what an answer is scored on."""
    structured: bool = True
    """Send the reply's JSON schema with each request, for servers that hold a model to one. A reply is read leniently
    either way."""
    max_new_tokens: int = Field(default=1024, ge=64)
    """Tokens that a reply may have; one that is cut off is read as far as it goes, then asked for again."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy: the same answer gets the same score."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of the probability mass that tokens are drawn from."""
    compat_paper: bool = False
    """Judge as the published algorithm does: nothing is asked again, and a judgement that cannot be read counts 0. That
    0 is an invention (on a scale from 1 to 5 no answer earns it), so this is for comparison only."""

    def most_requests(self, queries: int, answers: int) -> int:
        """Return how many requests it can take to judge so many answers to so many queries."""
        tries = 1 if self.compat_paper else 2
        return tries * (answers + (queries if isinstance(self.choice, ChosenAspects) else 0))


class DynamicJudge:
    """Scores answers 1 to 5 on aspects that it chooses for each query, with a reason for each score.

    A reply that cannot be read is asked for once more, with what was wrong; then the choice falls back to the default
    set, and a score is unscored. So a judgement takes at most two calls, and a query's choice at most two.

    It believes no verdict that stands in the answer or in the query. An aspect that it proposes is its own reading of
    the query, which is thereby the one text that can steer the judge: queries are the user's.
    """

    def __init__(self, talker: Talker, settings: DynamicJudgeSettings | None = None) -> None:
        """Raise `ConfigError` for an aspect file that cannot be used, or has too few, and for a name not in it."""
        self._talker = talker
        self._settings = settings or DynamicJudgeSettings()
        self._aspects = read_aspects(self._settings.aspects)
        choice = self._settings.choice
        self._default: tuple[Aspect, ...] = ()
        if isinstance(choice, _Chosen) and choice.at_least > len(self._aspects):
            raise ConfigError(
                f"The judge is to choose at least {choice.at_least} aspects, and {self._settings.aspects} has only "
                f"{len(self._aspects)}. Lower choice.at_least, add aspects, or name them all in choice: "
                "{type: fixed, names: ...}."
            )
        if isinstance(choice, FixedAspects):
            self._default = named(choice.names, self._aspects)
        elif isinstance(choice, ChosenAspects):
            self._default = named(choice.fallback, self._aspects) if choice.fallback else self._aspects[:N_DEFAULT]
        self._chosen: dict[Query, AspectChoice] = {}
        self._choosing: dict[Query, Shared[AspectChoice]] = {}

    @property
    def name(self) -> str:
        """What tells this judge's verdicts from another's."""
        return f"dynamic:{self._talker.name}"

    async def aspects_for(self, query: Query) -> AspectChoice:
        """Return the aspects of a query. It is asked for once, however many wait for it, and may be called ahead."""
        if query not in self._chosen:
            under_way = self._choosing.get(query)
            if under_way is None or not under_way.open:
                under_way = self._choosing[query] = Shared(self._choose(query))
            self._chosen[query] = await under_way.result()
            self._choosing.pop(query, None)
        return self._chosen[query]

    async def judge(self, query: Query, response: str) -> AspectJudgement:
        """Return the scores of one answer; see `Judge.judge`.

        Where the engine has no reply to this one request, the answer is unscored with its reason. Raises `RunFailed`
        where the engine is gone and `BudgetSpent` where it may not be asked.
        """
        material = (transcript(query), response)
        choice = self._settings.choice
        if isinstance(choice, AspectsTogether):
            limits, aspects = choice.limits, self._aspects
            task = together_task(query, response, aspects, limits)
            found = await self._ask(task, lambda reply: read_together(reply, aspects, limits, material), _gaps, _filled)
        else:
            wanted = (await self.aspects_for(query)).aspects
            names = [aspect.name for aspect in wanted]
            task = score_task(query, response, wanted)
            found = await self._ask(task, lambda reply: read_scores(reply, names, material), _gaps, _filled)
        if isinstance(found, Unreadable):
            judgement = AspectJudgement(id=query.id, score=None, unscored=found.why)
        else:
            judgement = summed_up(query.id, found)
        if judgement.score is None and self._settings.compat_paper:
            return judgement.model_copy(update={"score": 0.0})
        return judgement

    async def _choose(self, query: Query) -> AspectChoice:
        choice = self._settings.choice
        if isinstance(choice, AspectsTogether):
            return AspectChoice(query_id=query.id, aspects=(), origin="together")
        if isinstance(choice, FixedAspects):
            return AspectChoice(query_id=query.id, aspects=self._default, origin="fixed")
        limits, material = choice.limits, (transcript(query),)
        found = await self._ask(
            choice_task(query, self._aspects, limits),
            lambda reply: read_choice(reply, self._aspects, limits, material),
            lambda read: read.why if isinstance(read, Unreadable) else None,
            lambda first, second: second,
        )
        if isinstance(found, Unreadable):
            return AspectChoice(query_id=query.id, aspects=self._default, origin="fallback", why=found.why)
        return AspectChoice(query_id=query.id, aspects=found, origin="chosen")

    async def _ask(
        self,
        task: Task,
        read: Callable[[Reply], T | Unreadable],
        wrong: Callable[[T | Unreadable], str | None],
        merged: Callable[[T | Unreadable, T | Unreadable], T | Unreadable],
    ) -> T | Unreadable:
        """Return what the reply says; where something is wrong with it, what two replies say together."""
        try:
            first = read(await self._talker.ask(self._request(task)))
        except NoReply as error:
            return Unreadable(f"no reply: {error}")
        why = wrong(first)
        if why is None or self._settings.compat_paper:
            return first
        try:
            return merged(first, read(await self._talker.ask(self._request(task.again(why)))))
        except NoReply:
            return first

    def _request(self, task: Task) -> ChatRequest:
        settings = self._settings
        sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p)
        return ChatRequest(task.messages, sampling, schema=task.schema if settings.structured else None)


def _gaps(scores: Sequence[AspectScore] | Unreadable) -> str | None:
    return scores.why if isinstance(scores, Unreadable) else complaint(scores)


def _filled(
    first: tuple[AspectScore, ...] | Unreadable, second: tuple[AspectScore, ...] | Unreadable
) -> tuple[AspectScore, ...] | Unreadable:
    """Return two replies as one: the first, its gaps filled; the second where the first says nothing at all.

    Two replies that chose other aspects cannot be put together: the one with fewer gaps counts, the first if equal.
    """
    if isinstance(first, Unreadable) or isinstance(second, Unreadable):
        return second if isinstance(first, Unreadable) else first
    if [score.aspect for score in first] == [score.aspect for score in second]:
        return completed(first, second)
    return min((first, second), key=lambda scores: sum(score.score is None for score in scores))
