"""Runs of SeRA on a tiny model and a few pairs, what is on file of them, and what is measured anew to compare."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.recipes import offline_pairs, small
from tests.recipes.offline_pairs import records
from windvane.bootstrapping import BootstrapPick
from windvane.engines.local import LocalEngine
from windvane.engines.models import load_model
from windvane.engines.protocols import Advance, no_progress
from windvane.engines.settings import EngineSettings
from windvane.recipes.preference import TrainConfig, TrainResult, run_train
from windvane.recipes.sera import SeraResult, run_sera
from windvane.recipes.sera_config import SeraConfig
from windvane.selection import PairMargin
from windvane.types import Completion, Logprob, Message, Pair, ReferencedPair, ScoreRequest, SideScores

Asked = Counter[tuple[str, tuple[Message, ...], tuple[int, ...]]]
"""How often a model was asked for the log-probability of a response to a prompt."""


class Ran(NamedTuple):
    config: SeraConfig
    result: SeraResult
    asked: Asked

    def stage(self, name: str) -> Path:
        return self.result.run / name

    def policy(self, number: int) -> Path:
        """Return the policy of a round; that of round 0 is the model that the run began with."""
        return self.stage(f"round-{number}/policy") if number else Path(self.config.model)

    def weights(self, number: int) -> bytes:
        return (self.policy(number) / "model.safetensors").read_bytes()

    def pairs(self) -> dict[str, Pair]:
        """Return all pairs with the labels that they came with."""
        return {pair.id: pair for pair in records(self.stage("tokenised-pairs.jsonl"), Pair)}

    def trained_on(self, number: int) -> list[ReferencedPair]:
        return records(self.stage(f"round-{number}/training-pairs.jsonl"), ReferencedPair)

    def margins(self, number: int, name: str = "margins") -> list[PairMargin]:
        return records(self.stage(f"round-{number}/{name}.jsonl"), PairMargin)

    def picked(self, number: int) -> BootstrapPick:
        (pick,) = records(self.stage(f"round-{number}/bootstrapped.jsonl"), BootstrapPick)
        return pick


@contextmanager
def counting(asked: Asked) -> Iterator[None]:
    """Note each log-probability that a model computes."""
    whole = LocalEngine.score

    def score(
        self: LocalEngine, requests: Sequence[ScoreRequest], *, advance: Advance = no_progress
    ) -> list[tuple[Logprob, ...]]:
        asked.update((self.loaded.name, each.messages, said.token_ids) for each in requests for said in each.responses)
        return whole(self, requests, advance=advance)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalEngine, "score", score)
        yield


def go(model: Path, pairs: Path, output: Path, *more: str) -> Ran:
    config = small.load(SeraConfig, "sera", offline_pairs.overrides(model, pairs, output, *more))
    asked: Asked = Counter()
    with counting(asked):
        return Ran(config, run_sera(config, console=small.QUIET), asked)


def plain_training(model: Path, pairs: Path, output: Path, *more: str) -> TrainResult:
    """Run `windvane train` on the loss of examples/sera.yaml."""
    loss = "loss={type: dpo, beta: 0.1}"
    config = small.load(TrainConfig, "train", offline_pairs.overrides(model, pairs, output, loss, *more))
    return run_train(config, console=small.QUIET)


def engine(folder: Path) -> LocalEngine:
    settings = EngineSettings()
    return LocalEngine(load_model(str(folder), settings), settings)


def sums(folder: Path, asked: Sequence[tuple[tuple[Message, ...], Completion]]) -> list[Logprob]:
    """Return log-probabilities in a pass of their own."""
    return [found for (found,) in engine(folder).score([ScoreRequest(prompt, (said,)) for prompt, said in asked])]


def both_sides(folder: Path, pairs: Sequence[Pair]) -> list[SideScores]:
    found = engine(folder).score([ScoreRequest(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs])
    return [SideScores(chosen=chosen, rejected=rejected) for chosen, rejected in found]


def margin(scores: SideScores) -> float:
    return scores.chosen.sum - scores.rejected.sum


def close(value: float) -> object:
    """Equal to the last digits of float32, in which a batch shows."""
    return pytest.approx(value, rel=1e-4, abs=2e-3)


def words(messages: Sequence[Message]) -> str:
    """Return a prompt without case and signs, so that one is known in another form, too."""
    return " ".join(re.findall(r"\w+", messages[-1].content.lower()))
