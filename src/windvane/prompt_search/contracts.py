"""What a prompt search stands on: somebody who judges a prompt on a query, somebody who proposes new prompts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from windvane.prompt_search.records import Candidate, Judged
from windvane.types import Query


class Evaluator(Protocol):
    """Judges a system prompt on one query."""

    async def evaluate(self, system_prompt: str, query: Query) -> Judged:
        """Return the answer under this prompt and its score.

        An equal question has an equal answer: a search asks each one once. What cannot be answered or scored is
        unscored with a reason; a score is finite, and the higher the better. Raises `RunFailed` where nothing can be
        asked any more, and the budget's exception where it may not be.
        """

    async def prepare(self, query: Query) -> None:
        """Do ahead what all evaluations on this query share, such as choosing its aspects. It may do nothing."""

    async def anticipate(self, system_prompt: str, query: Query) -> None:
        """Do ahead, and not again, what evaluating this prompt on this query begins with: the model's answer.

        It may do nothing. A failure is that of the evaluation, and shows there.
        """


class Seen(NamedTuple):
    """What a prompt led to on one query: what a proposer may learn from."""

    query: Query
    judged: Judged


class Past(NamedTuple):
    """A prompt that was tried before."""

    prompt: str
    score: float | None = None
    """Its mean score, where it is known well enough to be told."""


class Context(NamedTuple):
    """What a proposer is told. Two equal contexts may be answered by the same proposals."""

    prompt: str
    """The prompt to be improved."""
    seen: tuple[Seen, ...]
    """What it led to."""
    past: tuple[Past, ...] = ()
    """Prompts that were tried before, oldest first."""
    taken: frozenset[str] = frozenset()
    """Prompts that must not be proposed again, compared by `same_prompt`."""
    sample: int = 0
    """Tells requests apart that are otherwise equal; a seed derives from it."""


class Proposals(NamedTuple):
    """New prompts."""

    prompts: list[str]
    """Distinct, none of them taken, as many as were asked for or fewer."""
    shortfall: str | None = None
    """Why there are fewer."""
    asked: int = 1
    """Requests that they cost."""


class Proposer(Protocol):
    """Proposes new prompts."""

    @property
    def origin(self) -> str:
        """What candidates of this proposer are marked with."""

    async def propose(self, context: Context, n: int) -> Proposals:
        """Return `n` prompts, or fewer and why. Depends on its arguments alone, however often it is asked."""


class Progress(NamedTuple):
    """Where a search stands, for whoever watches."""

    step: int
    """Level or race that this is about."""
    steps: int
    """How many there can be at most."""
    running: tuple[Candidate, ...]
    """The beam, or the candidates that are still in the race."""
    best: Candidate
    scores: tuple[float, ...]
    """Of the best prompt so far, over what it was judged on."""
    difference: tuple[float, float, float] | None = None
    """Of a race's leader against the incumbent: low, mean, high."""
    done: bool = True
    """Whether the step is over; a race goes on after its first looks."""


Watch = Callable[[Progress], None]


def look_away(_: Progress) -> None:
    """Watch nothing."""


Stop = type[BaseException] | tuple[type[BaseException], ...]
"""Exceptions that end a search with the best prompt so far, as a spent budget does."""


def same_prompt(text: str) -> str:
    """Return what two prompts that differ in nothing but white space have in common."""
    return " ".join(text.split())


def distinct(prompts: Sequence[str], taken: frozenset[str]) -> list[str]:
    """Return the prompts that say something, that are not taken, and that were not there before, in order."""
    known = {same_prompt(text) for text in taken} | {""}
    found: list[str] = []
    for prompt in prompts:
        key = same_prompt(prompt)
        if key not in known:
            known.add(key)
            found.append(prompt.strip())
    return found
