"""What every recipe holds in its hands: the run on file, the bench with the model, and the reporter."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import Field
from rich.console import Console

from windvane.config import Settings
from windvane.engines.settings import EngineSettings
from windvane.engines.workbench import Workbench
from windvane.recipes.report import Reporter
from windvane.run import RunDirectory


class RunConfig(Settings):
    """What every run has."""

    output_dir: Path
    """The run directory. The same command on it goes on where it stopped; another configuration is refused."""


class ModelRunConfig(RunConfig):
    """What every run with a model has."""

    seed: int = Field(default=0, ge=0)
    """Every random choice of the run derives from it."""
    engine: EngineSettings = EngineSettings()
    """How local models are loaded and run."""


class Session(NamedTuple):
    """A recipe's surroundings while it runs."""

    run: RunDirectory
    bench: Workbench
    reporter: Reporter


@contextmanager
def open_session(
    config: RunConfig, *, command: str, may_change: frozenset[str] = frozenset(), console: Console | None
) -> Iterator[Session]:
    """Open or resume the run directory of a configuration, of which only `may_change` may differ when it is resumed.

    Progress goes to standard error and tables to standard output, or both to `console`.
    """
    engine = config.engine if isinstance(config, ModelRunConfig) else EngineSettings()
    with RunDirectory.open(config.output_dir, config, command=command, may_change=may_change, console=console) as run:
        yield Session(run, Workbench(engine, say=run.say, count=run.count), Reporter(run, console))
