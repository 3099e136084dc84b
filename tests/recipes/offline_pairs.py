"""A tiny preference file of two sources, some prompts in two forms, and what makes runs on it tiny."""

import gc
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.recipes import small
from windvane.types import Record

R = TypeVar("R", bound=Record)

SAMPLES = "bootstrapping={samples: 3, share: 0.3, sampling: {max_new_tokens: 96, temperature: 1.0, top_p: 1.0}}"
"""Long enough for some of the samples to end, which a random model seldom does."""
NO_SAMPLES = "bootstrapping=null"
STUDY = ["holdout=0.25", "noise={flip: 0.25}"]
TRAINING = [*small.TRAINING, "training.pairs_per_step=4", "training.micro_batch=4"]


def rows(nouns: Iterable[str] = small.NOUNS) -> list[dict[str, str]]:
    """Return pairs that can be learned: the chosen response is short and names the thing, in sources a and b by turns.

    Every third prompt stands there twice, the second time in capitals and with another sign at its end. Of the others,
    every fourth has two pairs, which share the chosen response.
    """
    found = []
    for number, noun in enumerate(nouns):
        row = {"id": f"p{number:02}", "source": "ab"[number % 2], "chosen": f"The {noun}."}
        row |= {"prompt": f"Name the {noun}.", "rejected": f"No {noun} at all, sorry."}
        found.append(row)
        if number % 3 == 0:
            again = {"id": f"p{number:02}-again", "prompt": f"NAME THE {noun.upper()}!", "chosen": f"The {noun}!"}
            found.append({**row, **again})
        elif number % 4 == 1:
            found.append({**row, "id": f"p{number:02}-more", "rejected": f"Why a {noun}?"})
    return found


def write_pairs(path: Path, pairs: Iterable[Mapping[str, object]] | None = None) -> Path:
    """Write `pairs`, or those of `rows`, as JSONL."""
    given = rows() if pairs is None else pairs
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    return path


def overrides(model: Path, pairs: Path, output: Path, *more: str) -> list[str]:
    """Return what makes an example on offline pairs tiny: no held-out pairs, no noise, unless `more` says so."""
    places = [f"model={model}", f"preferences={pairs}", f"output_dir={output}", "holdout=0", "training.lora=null"]
    return [*places, *TRAINING, *more]


def records(path: Path, kind: type[R]) -> list[R]:
    """Return the records of a stage file; a random model's text holds signs at which `str.splitlines` would break."""
    return [kind.from_json(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@contextmanager
def quick_collections() -> Iterator[None]:
    """Keep what is in memory now out of garbage collections: a run has one at each change of the model it works with.

    Half of a tiny run's time goes there, where all of pytest, torch and transformers is in memory.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
