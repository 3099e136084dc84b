"""In-context examples: each answer is rewritten against its marks, and the best version is kept, not the latest."""

import functools
import re
from collections.abc import Sequence
from importlib import resources
from statistics import fmean
from typing import Literal, NamedTuple

from pydantic import Field

from windvane.config import Settings, load_config
from windvane.engines.protocols import Advance, ChatRequest, Reply, Talker, no_progress
from windvane.errors import BudgetSpent, DataError, NoReply
from windvane.judging.aspects import aspect_key
from windvane.judging.fences import fenced, transcript
from windvane.judging.prompts import described, fill
from windvane.judging.records import AspectChoice, AspectJudgement, Judge
from windvane.prompt_search.contracts import same_prompt
from windvane.prompt_search.together import together
from windvane.types import Message, Query, Record, Sampling

_ANSWER = re.compile(r"<answer>(.*)</answer>", re.IGNORECASE | re.DOTALL)
_OPEN = re.compile(r"^.*?<answer>", re.IGNORECASE | re.DOTALL)
_FENCE_LINE = re.compile(r"^-{5} .* [0-9a-f]{12} (?:begins|ends) -{5}\n?", re.MULTILINE)


class Demonstration(Record):
    """An in-context example: a request, and an answer that shows how to answer."""

    query: Query
    answer: str


class Version(Record):
    """One answer of an example, and its marks."""

    answer: str
    judgement: AspectJudgement

    @property
    def value(self) -> float | None:
        """The score; None for a missing one, and for a 0 that only stands in for one."""
        return self.judgement.score if self.judgement.unscored is None else None


class OptimisedDemonstration(Record):
    """An example, all versions of its answer, and which one is the best."""

    query: Query
    versions: tuple[Version, ...]
    """Distinct answers in the order in which they were written; the first is the one that was given."""
    best: int
    """Place of the version that is shown."""
    attempts: int
    """Rewrites that were asked for."""
    ended: Literal["perfect", "attempts", "budget"]
    """Why no further rewrite was asked for: the best version has the highest score on every aspect, all attempts were
    made, or the budget is spent."""

    @property
    def answer(self) -> str:
        """The best version."""
        return self.versions[self.best].answer


class RewritingSettings(Settings):
    """How in-context examples are optimised."""

    attempts: int = Field(default=5, ge=0)
    """Rewrites of each example at most; 0 leaves the examples as they are (and has them judged all the same)."""
    max_new_tokens: int = Field(default=1024, ge=16)
    """Tokens of a rewritten answer; one that is cut off counts as unreadable."""
    temperature: float = Field(default=0.2, ge=0)
    """0 is greedy. An attempt differs from the one before in what it is told, so greedy rewrites differ, too."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of the probability mass that tokens are drawn from."""

    def most_requests(self, examples: int) -> int:
        """Return how many requests the optimiser can get for so many examples."""
        return 2 * self.attempts * examples

    def most_judgements(self, examples: int) -> int:
        """Return how many answers can have to be judged for so many examples."""
        return (1 + self.attempts) * examples


class RewritingTexts(Settings):
    """The texts of `demonstrations.yaml`."""

    version: int
    system: str
    user: str
    unmarked: str
    tried: str
    again: str


class Unreadable(NamedTuple):
    """A reply that holds no answer, and why."""

    why: str


@functools.cache
def texts() -> RewritingTexts:
    """Return the texts that come with windvane."""
    with resources.as_file(resources.files("windvane.prompt_search") / "demonstrations.yaml") as path:
        return load_config(RewritingTexts, path)


async def optimise(
    examples: Sequence[Demonstration],
    judge: Judge,
    optimiser: Talker,
    settings: RewritingSettings | None = None,
    *,
    advance: Advance = no_progress,
) -> list[OptimisedDemonstration]:
    """Return each example with the best of its versions, in order; all of them are worked on at once.

    An example takes its judgement, and for each attempt at most two calls of the optimiser and one judgement more.
    Where the budget is spent, an example is what it was at that moment. Raises `DataError` for two examples of one id,
    and `RunFailed` where an engine is gone.
    """
    ids = [example.query.id for example in examples]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise DataError(f"Two in-context examples have the id {twice[0]!r}; give each an id of its own.")
    chain = _Chains(judge, optimiser, settings or RewritingSettings(), advance)
    return await together([chain.work(example) for example in examples], stop_on=())


def is_better(new: Version, best: Version) -> bool:
    """Whether a version takes the place of the best one so far.

    Compared are the means over the aspects on which both have a score: a version must not win because its low score
    could not be read. One without any score never wins, one with a score wins against one without. Of two that are
    equal the earlier one stays, unless it has gaps and the new one has the highest score on every aspect.
    """
    if new.value is None or best.value is None:
        return best.value is None and new.value is not None
    ours, theirs = _scores(new), _scores(best)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return new.value > best.value
    mean, other = fmean(ours[key] for key in shared), fmean(theirs[key] for key in shared)
    return mean > other or (mean == other and new.judgement.perfect and not best.judgement.perfect)


def read_rewrite(reply: Reply) -> str | Unreadable:
    """Return the answer in a reply: what stands between the tags, or the whole reply where it has none."""
    if whole := _ANSWER.search(reply.text):
        text = whole[1]
    elif reply.finish == "length":
        return Unreadable("it was cut off before the answer ended; write less")
    else:
        text = _OPEN.sub("", reply.text)
    text = _FENCE_LINE.sub("", text).strip()
    return text or Unreadable("it holds no answer")


def rewriting_messages(
    query: Query, choice: AspectChoice, best: Version, tried: Version | None = None
) -> tuple[Message, ...]:
    """Return the conversation that asks for a better version than `best`; `tried` is the last one that was none."""
    said, request = texts(), transcript(query)
    user = fill(
        said.user,
        request=fenced("request", request),
        answer=fenced("answer", best.answer, beside=(request,)),
        aspects=described(choice.aspects) or said.unmarked,
        marks=_marks(best.judgement),
        tried=_tried(tried, request) if tried else "",
    )
    system = fill(said.system, version=said.version)
    return Message(role="system", content=system), Message(role="user", content=user)


class _Chains:
    """One chain of calls for each example."""

    def __init__(self, judge: Judge, optimiser: Talker, settings: RewritingSettings, advance: Advance) -> None:
        self._judge, self._optimiser, self._settings, self._advance = judge, optimiser, settings, advance

    async def work(self, example: Demonstration) -> OptimisedDemonstration:
        chain = _Chain(example.query)
        try:
            chain.versions.append(await self._judged(example.query, example.answer))
            while not chain.best.judgement.perfect and chain.attempts < self._settings.attempts:
                await self._attempt(chain)
            ended: Literal["perfect", "attempts", "budget"] = "perfect" if chain.best.judgement.perfect else "attempts"
        except BudgetSpent as spent:
            ended = "budget"
            if not chain.versions:
                chain.versions.append(_unjudged(example.query, example.answer, f"not judged: {spent}"))
        self._advance(1)
        return OptimisedDemonstration(
            query=chain.query,
            versions=tuple(chain.versions),
            best=chain.place,
            attempts=chain.attempts,
            ended=ended,
        )

    async def _attempt(self, chain: "_Chain") -> None:
        """Ask for one rewrite and judge it; one that says the same as a version before is not judged again."""
        choice = await self._judge.aspects_for(chain.query)
        messages = rewriting_messages(chain.query, choice, chain.best, chain.tried)
        sample, chain.attempts = chain.attempts, chain.attempts + 1
        text = await self._rewrite(messages, sample)
        if text is None or same_prompt(text) in {same_prompt(version.answer) for version in chain.versions}:
            return
        chain.add(await self._judged(chain.query, text))

    async def _rewrite(self, messages: tuple[Message, ...], sample: int) -> str | None:
        """Return a rewritten answer; None where two replies hold none."""
        system, user = messages
        for again in (False, True):
            try:
                found = read_rewrite(await self._optimiser.ask(self._request((system, user), sample)))
            except NoReply:
                return None
            if not isinstance(found, Unreadable):
                return found
            if not again:
                complaint = fill(texts().again, why=found.why)
                user = Message(role="user", content=f"{user.content}\n\n{complaint}")
        return None

    def _request(self, messages: tuple[Message, ...], sample: int) -> ChatRequest:
        settings = self._settings
        return ChatRequest(messages, Sampling(settings.max_new_tokens, settings.temperature, settings.top_p), sample)

    async def _judged(self, query: Query, answer: str) -> Version:
        try:
            return Version(answer=answer, judgement=await self._judge.judge(query, answer))
        except NoReply as error:
            return _unjudged(query, answer, f"no reply: {error}")


class _Chain:
    """Where the work on one example stands."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.versions: list[Version] = []
        self.place = 0
        self.attempts = 0
        self.tried: Version | None = None

    @property
    def best(self) -> Version:
        return self.versions[self.place]

    def add(self, version: Version) -> None:
        self.versions.append(version)
        if is_better(version, self.best):
            self.place, self.tried = len(self.versions) - 1, None
        else:
            self.tried = version


def _unjudged(query: Query, answer: str, why: str) -> Version:
    return Version(answer=answer, judgement=AspectJudgement(id=query.id, score=None, unscored=why))


def _scores(version: Version) -> dict[str, float]:
    return {aspect_key(a.aspect): a.score for a in version.judgement.aspects if a.score is not None}


def _marks(judgement: AspectJudgement) -> str:
    marks = [f"- {a.aspect}: {a.score:g}. {a.reason}".rstrip() for a in judgement.aspects if a.score is not None]
    return fenced("marks", "\n".join(marks) or texts().unmarked)  # a reason may quote the answer


def _tried(version: Version, request: str) -> str:
    answer = fenced("earlier attempt", version.answer, beside=(request,))
    return fill(texts().tried, answer=answer, marks=_marks(version.judgement))
