"""Recipes on a scale of seconds: a tiny random model, queries of a few words, responses of a few tokens."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from windvane.config import Settings, load_config
from windvane.types import Record

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
QUIET = Console(quiet=True)

NOUNS = [
    "fish",
    "bird",
    "river",
    "song",
    "door",
    "star",
    "boat",
    "wind",
    "city",
    "soup",
    "hill",
    "rain",
    "book",
    "game",
    "coat",
    "sea",
    "train",
    "room",
    "lamp",
    "bee",
    "key",
    "kite",
    "tree",
    "salt",
]
THINGS = [f"the {noun}" for noun in NOUNS]

SAMPLING = ["sampling.max_new_tokens=8", "principles.choice=random"]
NO_FILTER = ["selection={ordering: false, on_policy: null, gap: null}"]
TRAINING = [
    "training.pairs_per_step=2",
    "training.micro_batch=2",
    "training.learning_rate=0.003",
    "training.guards={max_cut_share: null, max_fall: null}",  # a random model hardly ever ends a response
]
EVALUATION = ["evaluation.holdout=4", "evaluation.max_new_tokens=8"]

S = TypeVar("S", bound=Settings)
R = TypeVar("R", bound=Record)


def write_queries(path: Path, things: Iterable[str] = THINGS) -> Path:
    """Write one query for each thing, such as ``Name a fish.``, as JSONL."""
    rows = ({"id": f"q{number:02}", "prompt": f"Name {thing}."} for number, thing in enumerate(things))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(kind: type[S], example: str, overrides: Iterable[str]) -> S:
    """Return an example's configuration with overrides, as the command line reads it."""
    return load_config(kind, EXAMPLES / f"{example}.yaml", list(overrides))


def sso_overrides(model: Path, queries: Path, output: Path, *more: str) -> list[str]:
    """Return what makes an SSO example tiny."""
    places = [f"model={model}", f"queries={queries}", f"output_dir={output}"]
    return [*places, *SAMPLING, *NO_FILTER, *TRAINING, *EVALUATION, *more]


def records(path: Path, kind: type[R]) -> list[R]:
    """Return the records of a stage file."""
    return [kind.from_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_json(path: Path) -> dict[str, Any]:
    """Return an object on file."""
    found = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def metrics(policy: Path) -> list[Mapping[str, float]]:
    """Return the metrics of each training step."""
    return [json.loads(line) for line in (policy / "training.jsonl").read_text(encoding="utf-8").splitlines()]
