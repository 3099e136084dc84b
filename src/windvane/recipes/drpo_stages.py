"""What the stages of a prompt search have in common: data, engines, counting, and a budget that may be raised."""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from windvane.data import load_queries
from windvane.data.messages import text_of
from windvane.data.queries import collect, normalised_prompt, refuse_none, row_id, row_source
from windvane.data.reading import rows
from windvane.data.shapes import prompt_of
from windvane.data.source import BadRow, Row
from windvane.data.splitting import leave_out, split_queries
from windvane.engines.budget import BudgetSettings
from windvane.errors import ConfigError
from windvane.prompt_search.contracts import Proposer
from windvane.prompt_search.demonstrations import Demonstration
from windvane.prompt_search.evaluator import ModelEvaluator, Prompted
from windvane.prompt_search.guidelines import GuidelineProposer, bank_guidelines, read_guidelines
from windvane.prompt_search.proof import Proof
from windvane.prompt_search.proposers import Optimizer
from windvane.prompt_search.records import SearchResult
from windvane.prompt_search.rendering import ExampleSource
from windvane.prompt_search.retrieval import NearestExamples, RetrievalSettings, nearest_examples
from windvane.recipes.drpo_config import DrpoConfig, GuidelineProposerSettings
from windvane.recipes.drpo_plan import Data, bound_in_words, check_queries, for_the_search, plan_of
from windvane.recipes.roles import Roles
from windvane.reporting.search import SearchView
from windvane.run import RunDirectory
from windvane.run.team import team_of
from windvane.types import Query, Record

T = TypeVar("T")
R = TypeVar("R", bound=Record)


class Searched(Record):
    """A search, and the budget that it had."""

    result: SearchResult
    budget: BudgetSettings

    def cut(self, proof: Proof, budget: BudgetSettings) -> bool:
        """Whether the budget of that time ended search or proof, and `budget` is another one."""
        ended = self.result.ended == "budget" or proof.stopped is not None
        return ended and self.budget != budget


class Proved(Record):
    """What the held-out queries say."""

    proof: Proof


class Desk:
    """What every stage works with."""

    def __init__(self, config: DrpoConfig, run: RunDirectory, roles: Roles, data: Data) -> None:
        self.config, self.run, self.roles, self.data = config, run, roles, data
        self.view = SearchView(run.console, roles.traffic)
        self._plan = plan_of(config, data)
        self._guidelines = _guidelines(config)
        self._said = False

    def once(self, name: str, attempt: int, make: Callable[[], Sequence[R]], kind: type[R], inputs: object) -> list[R]:
        """Return the records of a stage; a further attempt stands beside the first."""
        stage = name if attempt == 1 else f"{name}-{attempt}"
        return self.run.once(stage, make, kind, inputs=(self.roles.names, inputs))

    @property
    def proof_calls(self) -> int:
        """Calls that the proof can take."""
        return sum(part.times for part in self._plan.proof)

    def ask(self, stage: str, make: Callable[[], Coroutine[Any, Any, T]], *, most: int | None = None) -> T:
        """Do the asynchronous work of a stage, shown while it lasts; the first time, say what the run can take.

        `most` are the calls that a stage without steps can take.
        """
        self._say_what_it_can_take()
        with self.view.stage(stage, most):
            result = self.roles.work(make)
        counted, usage = self.run.counts(), self.roles.usage
        for name, total in (("model_calls", usage.calls), ("tokens_generated", usage.completion_tokens)):
            self.run.count(name, max(0, total - counted.get(name, 0)))
        return result

    @contextmanager
    def leaving_the_proof(self) -> Iterator[None]:
        """Keep from what is done inside the part of the budget that the proof needs."""
        self._say_what_it_can_take()  # of the whole budget
        budget = self.roles.budget
        budget.settings = for_the_search(self.config.budget, self._plan)
        budget.kept_for = "the proof" if budget.settings != self.config.budget else None
        try:
            yield
        finally:
            budget.settings, budget.kept_for = self.config.budget, None

    def _say_what_it_can_take(self) -> None:
        if self._said:
            return
        self._said = True
        self.run.say(bound_in_words(self.config, self._plan, self.roles.budget))
        if self.roles.on_file:
            self.run.say(f"{self.roles.on_file} replies are on file and cost nothing more")

    def evaluator(self, source: ExampleSource) -> ModelEvaluator:
        """Return who answers under a prompt and scores the answer."""
        model = Prompted(self.roles.model(), self.config.sampling.sampling(), source)
        return ModelEvaluator(model, self.roles.judge())

    def proposer(self) -> Proposer:
        """Return who proposes new prompts."""
        settings = self.config.proposer
        if isinstance(settings, GuidelineProposerSettings):
            return GuidelineProposer(self._guidelines, seed=self.config.seed, at_most=settings.at_most)
        return Optimizer(self.roles.optimizer(), settings)


def refuse_company() -> None:
    """Raise `ConfigError` where several processes were started: one keeps all engines busy and writes the journal."""
    size = team_of().size
    if size > 1:
        raise ConfigError(
            f"windvane drpo was started as {size} processes, and a search is one: start it without accelerate launch "
            "or torchrun. More servers (a list in base_url), or more requests at once (concurrency), make it faster."
        )


def read_data(config: DrpoConfig) -> Data:
    """Read queries and examples, and set the proof's queries aside; all are checked before anything is asked.

    A query that is also an example is left out of the proof's side and of the search's: its answer is known.
    """
    examples = read_examples(config) if config.examples is not None else []
    queries = load_queries(config.queries, limit=config.max_queries)
    queries = leave_out(queries, [example.query for example in examples]).queries
    parts, held_out = split_queries(queries, holdout=config.holdout, seed=config.seed)
    check_queries(config, parts[0])
    return Data(parts[0], held_out, examples)


def read_examples(config: DrpoConfig) -> list[Demonstration]:
    """Return the in-context examples; raises `DataError` with file and line."""
    source = config.examples
    assert source is not None

    def make(row: Row) -> _Example:
        messages = prompt_of(row.values, source)
        answer = row.values.get(source.answer_column)
        if answer is None:
            raise BadRow("no_answer", f"it has no column {source.answer_column!r}; name it in examples.answer_column")
        text = text_of(answer, source.answer_column).strip()
        if not text:
            raise BadRow("empty_answer", f"{source.answer_column} is empty; an example shows how to answer")
        return _Example(id=row_id(row, source, messages), messages=messages, source=row_source(row), answer=text)

    found, dropped = collect(
        rows(source), make, lambda one: normalised_prompt(one.messages), source, "duplicate_prompt"
    )
    refuse_none(found, dropped, f"{source.path} holds no usable example")
    return [
        Demonstration(query=Query(id=one.id, messages=one.messages, source=one.source), answer=one.answer)
        for one in found
    ]


def source_of(examples: Sequence[Demonstration], settings: RetrievalSettings) -> NearestExamples:
    """Return who chooses a query's examples; where there are none, no embedding model is loaded to find them."""
    return nearest_examples(examples, settings if examples else RetrievalSettings(by="bm25", k=0))


class _Example(Query):
    answer: str


def _guidelines(config: DrpoConfig) -> tuple[str, ...]:
    settings = config.proposer
    if not isinstance(settings, GuidelineProposerSettings):
        return ()
    own = read_guidelines(settings.path) if settings.path is not None else ()
    return (*own, *(bank_guidelines() if settings.bank else ()))
