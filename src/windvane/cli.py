"""The commands. No logic: each reads a configuration and calls one function of the library."""

import io
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from windvane import __version__
from windvane.errors import BudgetSpent, OutOfMemory, RunFailed, TrainingDiverged, UserError

if TYPE_CHECKING:
    from windvane.config import Settings

app = typer.Typer(
    name="windvane",
    help="Align language models with no human labels: bring a model, queries and a few sentences on how to answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
models_app = typer.Typer(help="Models by name: fetch one, list what is here.", no_args_is_help=True)
queries_app = typer.Typer(help="Queries: make more from few.", no_args_is_help=True)
prompt_app = typer.Typer(help="The prompt that a search found: show it, ask it, export it.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(queries_app, name="queries")
app.add_typer(prompt_app, name="prompt")

ConfigFile = Annotated[Path, typer.Argument(help="YAML configuration; see examples/.", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value, as in training.epochs=2.")
]


T = TypeVar("T", bound="Settings")


def _commands() -> "dict[str, type[Settings]]":
    from windvane.recipes.configs import config_classes  # all recipes: not before a configuration is wrong

    return config_classes()


def _load(kind: type[T], path: Path, overrides: list[str] | None) -> T:
    from windvane.config import load_config

    return load_config(kind, path, overrides or [], commands=_commands)


@app.command()
def sso(config: ConfigFile, set_: Overrides = None) -> None:
    """Align a model by Self-Steering Optimization: queries and principles in, an aligned model out."""
    from windvane.recipes.sso import run_sso
    from windvane.recipes.sso_config import SSOConfig

    run_sso(_load(SSOConfig, config, set_))


@app.command()
def sera(config: ConfigFile, set_: Overrides = None) -> None:
    """Align a model on offline preference pairs, which it reviews by its own implicit reward."""
    from windvane.recipes.sera import run_sera
    from windvane.recipes.sera_config import SeraConfig

    run_sera(_load(SeraConfig, config, set_))


@app.command()
def drpo(config: ConfigFile, set_: Overrides = None) -> None:
    """Align a model through its prompt: search the system prompt, and prove it on queries the search never saw."""
    from windvane.recipes.drpo import run_drpo
    from windvane.recipes.drpo_config import DrpoConfig

    run_drpo(_load(DrpoConfig, config, set_))


@app.command()
def pairs(config: ConfigFile, set_: Overrides = None) -> None:
    """Only make the preference pairs, in the format that TRL, Axolotl and LLaMA-Factory read."""
    from windvane.recipes.pairs import PairsConfig, run_pairs

    run_pairs(_load(PairsConfig, config, set_))


class By(StrEnum):
    """What `windvane select` selects by."""

    steering = "steering"
    margin = "margin"


@app.command()
def select(
    config: ConfigFile,
    set_: Overrides = None,
    by: Annotated[By, typer.Option("--by", help="The filter of SSO, or the implicit reward margin.")] = By.steering,
) -> None:
    """Only filter pairs: kept and dropped, with reasons and thresholds.

    By `steering`, the scored pairs of an earlier run; by `margin`, any preference file, under any policy and reference.
    """
    from windvane.recipes.audit import AuditConfig, run_audit
    from windvane.recipes.select import SelectConfig, run_select

    if by is By.margin:
        run_audit(_load(AuditConfig, config, set_))
    else:
        run_select(_load(SelectConfig, config, set_))


@app.command()
def train(config: ConfigFile, set_: Overrides = None) -> None:
    """Train on any preference file with any loss."""
    from windvane.recipes.preference import TrainConfig, run_train

    run_train(_load(TrainConfig, config, set_))


@app.command()
def evaluate(config: ConfigFile, set_: Overrides = None) -> None:
    """Compare a policy with its base model on queries: a rule's win rate, length, and whether it is still language."""
    from windvane.recipes.evaluate import EvaluateConfig, run_evaluate

    run_evaluate(_load(EvaluateConfig, config, set_))


@queries_app.command("augment")
def augment(config: ConfigFile, set_: Overrides = None) -> None:
    """Write new queries from seed queries."""
    from windvane.recipes.augment import AugmentConfig, run_augment

    run_augment(_load(AugmentConfig, config, set_))


RunFolder = Annotated[Path, typer.Argument(help="A run directory.")]


@prompt_app.command("show")
def prompt_show(run: RunFolder) -> None:
    """Print the found prompt and examples, its proof, and what the search took."""
    from windvane.recipes.prompt import show_prompt

    show_prompt(run)


@prompt_app.command("ask")
def prompt_ask(run: RunFolder, text: Annotated[str, typer.Argument(help="What to ask.")]) -> None:
    """Answer a query with the found prompt, rendered as in the search."""
    from windvane.recipes.prompt import ask_prompt

    ask_prompt(run, text)


class PromptFormat(StrEnum):
    """What `windvane prompt export` writes."""

    json = "json"
    txt = "txt"
    openai = "openai"
    jinja = "jinja"
    modelfile = "modelfile"


@prompt_app.command("export")
def prompt_export(
    run: RunFolder,
    form: Annotated[PromptFormat, typer.Option("--format", help="What to write.")] = PromptFormat.json,
) -> None:
    """Print the found prompt for use elsewhere."""
    from windvane.recipes.prompt import export_prompt

    typer.echo(export_prompt(run, form.value))


@models_app.command("pull")
def models_pull(name: Annotated[str, typer.Argument(help="A name of `windvane models list`, or a hub name.")]) -> None:
    """Fetch a model once, into the cache."""
    from rich.console import Console

    from windvane.engines.shelf import pull

    console = Console()
    console.print(f"{name} is at {pull(name, say=console.print)}", soft_wrap=True)


@models_app.command("list")
def models_list() -> None:
    """List the models that can be named, and where they are."""
    from rich.console import Console

    from windvane.engines.shelf import available
    from windvane.reporting.console import models_table

    Console().print(models_table(available()))


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what this machine can do, and what to change."""
    from windvane.doctor import diagnose
    from windvane.reporting.console import print_findings

    print_findings(diagnose(), as_json=as_json)


@app.command()
def show(run: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Print where a run stands, and what it found."""
    from windvane.reporting.show import show_run

    show_run(run)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"windvane {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"windvane: {message}", err=True)
    sys.exit(code)


def main() -> None:
    """Run a command; exit with 0 done, 2 wrong input, 3 a failed run that can be resumed, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot print ⁺ must not end a run
    try:
        app()
    except UserError as error:
        _fail(str(error), 2)
    except TrainingDiverged as error:
        _fail(
            f"{error}\nWhat was made before is on file. A limit may be set otherwise in this run; for any other change "
            "choose another output_dir.",
            3,
        )
    except (RunFailed, BudgetSpent) as error:
        _fail(f"{error}\nThe run is on file; the same command goes on from here.", 3)
    except (RuntimeError, MemoryError) as error:
        failed = OutOfMemory.of(error)
        if failed is None:
            raise
        _fail(
            f"{failed}\nWith other settings choose another output_dir. The run is on file; where there is more memory, "
            "the same command goes on from here.",
            3,
        )
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != 130:  # typer turns Ctrl-C into an exit without a word
            raise
        _fail("interrupted. What a run has finished is on file; the same command goes on from here.", 130)
