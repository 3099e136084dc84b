"""The runs that the tests of SeRA look into, each made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recipes import offline_pairs
from tests.recipes.sera.runs import Ran, go, plain_training
from windvane.recipes.preference import TrainResult


@pytest.fixture(scope="package", autouse=True)
def quick_collections() -> Iterator[None]:
    with offline_pairs.quick_collections():
        yield


@pytest.fixture(scope="package")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 pairs on 24 prompts, of which 8 stand there in two forms, and 4 have two pairs with one chosen response."""
    return offline_pairs.write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


@pytest.fixture(scope="package")
def studied(model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Three rounds as by default, with held-out pairs and flipped labels."""
    folder = tmp_path_factory.mktemp("studied") / "run"
    return go(model, pairs, folder, offline_pairs.SAMPLES, *offline_pairs.STUDY)


@pytest.fixture(scope="package")
def baseline(model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Three rounds that keep all pairs and add none."""
    return go(model, pairs, tmp_path_factory.mktemp("baseline") / "run", offline_pairs.NO_SAMPLES, "selection.keep=1")


@pytest.fixture(scope="package")
def otherwise(model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Three rounds in which the last policy alone judges, and is the reference; shares by source; length control."""
    options = ["reference=previous", "selection={gamma: 1, keep: 0.75, by_source: {a: 0.5}}"]
    folder = tmp_path_factory.mktemp("otherwise") / "run"
    return go(model, pairs, folder, offline_pairs.SAMPLES, "bootstrapping.length_control=true", *options)


@pytest.fixture(scope="package")
def trained(model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """`windvane train` on what `studied` starts with."""
    return plain_training(model, pairs, tmp_path_factory.mktemp("trained") / "run", *offline_pairs.STUDY)
