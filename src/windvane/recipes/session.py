"""What every recipe holds in its hands: the run on file, the bench with the model, and the reporter."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import Field
from rich.console import Console

from windvane.config import Settings
from windvane.config.near import near_files
from windvane.config.settings import groups_inside
from windvane.config.yaml_text import dotted
from windvane.data import DataSource
from windvane.data.reading import is_missing
from windvane.engines.settings import EngineSettings
from windvane.engines.workbench import Workbench
from windvane.errors import ConfigError, DataError
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

    Progress goes to standard error and tables to standard output, or both to `console`. Raises what `check_inputs`
    and `RunDirectory.open` raise.
    """
    check_inputs(config)
    engine = config.engine if isinstance(config, ModelRunConfig) else EngineSettings()
    with RunDirectory.open(config.output_dir, config, command=command, may_change=may_change, console=console) as run:
        yield Session(run, Workbench(engine, say=run.say, count=run.count), Reporter(run, console))


def check_inputs(config: RunConfig) -> None:
    """Refuse a configuration that names a file or folder which is not there, and say which key names it.

    Raises `DataError` for a data set and `ConfigError` for anything else.
    """
    for keys, group in groups_inside(config):
        if isinstance(group, DataSource) and is_missing(group):
            raise DataError(_missing(dotted(keys), group.path, "does not exist"))
        for name, field in type(group).model_fields.items():
            path = getattr(group, name)
            if isinstance(path, Path) and name != "output_dir" and not path.exists():
                raise ConfigError(_missing(dotted((*keys, name)), str(path), "is not there", field.description or ""))


def _missing(key: str, path: str, what: str, meaning: str = "") -> str:
    near, meant = near_files(Path(path).expanduser()), " ".join(meaning.split()).rstrip(".")
    wanted = f" It is to be: {meant}." if meant else ""
    return f"{key}: {path} {what}.{near}{wanted} Set {key} in the configuration or with --set {key}=..."
