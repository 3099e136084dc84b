"""More queries from few, as a run that can be interrupted: each round of replies is on file before the next one."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import Field
from rich.console import Console

from windvane.data import DataSource, load_queries
from windvane.engines.protocols import Advance, no_progress
from windvane.engines.workbench import Workbench
from windvane.queries import Augmentation, AugmentSettings, augment_queries
from windvane.recipes.report import write_summary
from windvane.recipes.session import ModelRunConfig, open_session
from windvane.run import RunDirectory
from windvane.types import Completion, Dropped, Prompt, Query, Record, Sampling


class AugmentConfig(ModelRunConfig):
    """Everything that a run of `windvane queries augment` depends on."""

    model: str = Field(min_length=1)
    """Model that writes: the policy itself, or a better one. A folder, a name or a hub name."""
    queries: DataSource
    """Seed queries."""
    evaluation_queries: DataSource | None = None
    """Queries that an evaluation uses: a new query that is like one of them is dropped."""
    shard_size: int = Field(default=64, ge=1)
    """Requests per shard: the most work that a kill can cost, and the most that are batched together."""
    augment: AugmentSettings = AugmentSettings()
    """How many, in which manner, and what is too alike."""


class AugmentResult(NamedTuple):
    """What a run made."""

    queries: Path
    """The new queries, a JSONL file that every recipe reads."""
    run: Path
    augmentation: Augmentation


class QueryRow(Record):
    """A new query as it is on file: a row that any recipe reads as a query."""

    id: str
    prompt: str
    source: str | None

    @classmethod
    def of(cls, query: Query) -> Self:
        """Return the row of a query of one turn."""
        return cls(id=query.id, prompt=query.text, source=query.source)


class _Rounds:
    """A `Generator` whose every call is a stage of the run, so that a rerun finds the replies that are there."""

    def __init__(self, run: RunDirectory, bench: Workbench, model: str, shard_size: int) -> None:
        self._run, self._generator, self._shard_size = run, bench.engine(model), shard_size
        self._writer = bench.identity(model)
        self._round = 0

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, advance: Advance = no_progress
    ) -> list[Completion]:
        """Return one completion for each prompt; see `Generator.generate`."""
        self._round += 1

        def reply(shard: Sequence[Prompt]) -> list[Completion]:
            return self._generator.generate(shard, sampling, advance=self._run.advance)

        return self._run.map(
            f"rounds/{self._round:03d}",
            prompts,
            reply,
            Completion,
            shard_size=self._shard_size,
            label=f"round {self._round}",
            inputs=self._writer,
        )


def run_augment(config: AugmentConfig, *, console: Console | None = None) -> AugmentResult:
    """Write new queries from seed queries; see `run_sso` for consoles and errors."""
    with open_session(config, command="queries augment", console=console) as session:
        run, bench, reporter = session
        seeds = load_queries(config.queries)
        evaluation = [] if config.evaluation_queries is None else load_queries(config.evaluation_queries)
        writer = _Rounds(run, bench, config.model, config.shard_size)
        made = augment_queries(seeds, writer, config.augment, seed=config.seed, evaluation=evaluation)
        run.once("dropped", lambda: made.dropped, Dropped, inputs=made.dropped)
        new = [QueryRow.of(query) for query in made.queries]
        run.once("queries", lambda: new, QueryRow, inputs=new)
        path = run.path / "queries.jsonl"
        reasons = dict(Counter(record.reason for record in made.dropped).most_common())
        write_summary(
            run,
            "queries augment",
            model=config.model,
            seed=config.seed,
            results={"counts": {"queries": len(made.queries), "dropped": reasons}, "queries": path},
        )
        reporter.places({"result": made.summary(), "dropped": reasons, "new queries": path, "run directory": run.path})
        return AugmentResult(path, run.path, made)
