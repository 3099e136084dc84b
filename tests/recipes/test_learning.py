"""What is learned carries over to queries that were not trained on; a wrong sign anywhere turns the number around."""

from pathlib import Path

import pytest

from tests.recipes import small
from windvane.engines.local import LocalEngine
from windvane.engines.models import load_model
from windvane.engines.settings import EngineSettings
from windvane.recipes.contrast import score_pairs
from windvane.recipes.pairs import PairsConfig, run_pairs
from windvane.recipes.sso import SSOConfig, run_sso
from windvane.types import ScoredPair

PRINCIPLES = f"principles={small.EXAMPLES / 'principles' / 'concise.yaml'}"
RESPONSES = "sampling.max_new_tokens=8"


@pytest.fixture(scope="module")
def held_out(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ScoredPair]:
    """Pairs of 24 queries that nothing is trained on, measured by the model that training starts from."""
    folder = tmp_path_factory.mktemp("held-out")
    queries = small.write_queries(folder / "queries.jsonl", [f"the new {noun}" for noun in small.NOUNS])
    places = [f"model={model}", f"queries={queries}", f"output_dir={folder / 'run'}"]
    config = small.load(PairsConfig, "pairs", [*places, PRINCIPLES, RESPONSES])
    return small.records(run_pairs(config, console=small.QUIET).run / "pairs" / "scored.jsonl", ScoredPair)


def margins(pairs: list[ScoredPair], policy: Path) -> list[float]:
    """Return each pair's implicit reward margin, in nats: how much further apart the policy holds y⁺ and y⁻."""
    settings = EngineSettings()
    after = score_pairs([one.pair for one in pairs], LocalEngine(load_model(str(policy), settings), settings))

    def difference(one: ScoredPair) -> float:
        return one.scores.chosen_plain.sum - one.scores.rejected_plain.sum

    return [difference(new) - difference(old) for new, old in zip(after, pairs, strict=True)]


def test_sso_teaches_what_holds_for_other_queries(held_out: list[ScoredPair], model: Path, tmp_path: Path) -> None:
    """64 queries, 32 steps: 19 of 23 held-out pairs move the right way, by 8.8 nats on average; chance is half, by 0.

    Breaks where chosen and rejected are exchanged, in the loss, the views or the reference: with the margin's sign
    turned on purpose in `dpo_loss`, 3 of 23 move the right way, by -8.6. Breaks, too, where the trained weights are
    not the saved ones.
    """
    things = [f"the {kind} {noun}" for kind in ("red", "old", "big", "wet") for noun in small.NOUNS]
    queries = small.write_queries(tmp_path / "queries.jsonl", things)
    places = [f"model={model}", f"queries={queries}", f"output_dir={tmp_path / 'run'}", PRINCIPLES, RESPONSES]
    settings = ["iterations=1", "max_queries=64", "evaluation=null", "loss={type: sso, base: {type: dpo, beta: 0.1}}"]
    numbers = ["training.epochs=4", "training.pairs_per_step=8", "training.micro_batch=8"]
    config = small.load(SSOConfig, "sso", [*places, *small.NO_FILTER, *small.TRAINING, *settings, *numbers])
    policy = run_sso(config, console=small.QUIET).policy
    moved = margins(held_out, policy)
    right = sum(margin > 0 for margin in moved) / len(moved)
    assert right >= 0.7
    assert sum(moved) / len(moved) > 4
    history = small.metrics(policy)
    assert [step["accuracy"] for step in history[-8:]] == [1.0] * 8
    assert history[0]["margin"] == pytest.approx(0, abs=1e-3)


def test_a_model_against_itself_moves_nothing(held_out: list[ScoredPair], model: Path) -> None:
    """The number that the test above reads is 0 where there was no training."""
    assert margins(held_out, model) == pytest.approx([0.0] * len(held_out), abs=1e-4)
