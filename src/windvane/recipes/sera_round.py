"""One round of SeRA: review the pairs, add some, train, and see how the implicit reward does on held-out pairs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from windvane.bootstrapping import BootstrapPick
from windvane.evaluation.reward_accuracy import RewardAccuracy
from windvane.recipes.bootstrap import bootstrap
from windvane.recipes.offline import (
    LogprobLedger,
    OfflineData,
    Panel,
    both_sides,
    check_moved,
    distinct_queries,
    held_out_accuracy,
    keep_margins,
    pair_margins,
    train_on,
)
from windvane.recipes.policy import TrainedPolicy
from windvane.recipes.sera_config import SeraConfig
from windvane.recipes.session import Session
from windvane.seeds import derive_seed
from windvane.selection import NoiseRemoval, noise_removal, select_by_margin
from windvane.selection.implicit_margin import needs_reference
from windvane.shares import share_of
from windvane.types import Dropped, Pair


class Review(NamedTuple):
    """What a round trains on: the offline pairs that selection kept, and the pairs that it added."""

    kept: list[Pair]
    dropped: tuple[Dropped, ...]
    added: BootstrapPick | None
    noise: NoiseRemoval | None
    """How well the margins told flipped pairs from clean ones; None where no label was turned round on purpose."""
    thresholds: dict[str, float]

    @property
    def pairs(self) -> list[Pair]:
        """All of them."""
        return [*self.kept, *(each.pair for each in (self.added.pairs if self.added else ()))]


class Round(NamedTuple):
    """A review, the policy that was trained on it, and how its implicit reward does on the held-out pairs."""

    review: Review
    policy: TrainedPolicy
    held_out: RewardAccuracy | None


def first_review(data: OfflineData) -> Review:
    """Round 1 has no policy to ask yet: it trains on everything."""
    return Review(data.train, (), None, None, {})


def review_pairs(
    session: Session, number: int, data: OfflineData, config: SeraConfig, ledger: LogprobLedger, policies: Sequence[str]
) -> Review:
    """Have the last two policies judge the offline pairs; keep the surest, and let the last policy write new ones."""
    place, gamma = f"round-{number}", config.selection.gamma
    panel = Panel(
        last=policies[-1],
        before=policies[-2] if gamma < 1 else None,
        reference=policies[0] if needs_reference(config.reward) else None,
    )
    for model in dict.fromkeys(panel.members):
        name = f"{place}/initial-scores" if model == config.model else f"round-{policies.index(model)}/scores"
        ledger.measure(name, model, both_sides(data.train))
    margins = pair_margins(session, f"{place}/margins", data.train, ledger, panel, form=config.reward, gamma=gamma)
    check_moved(margins, config.selection)
    selection = select_by_margin(margins, config.selection)
    keep_margins(session, place, margins, selection)
    names = {pair.id for pair in selection.kept}
    added = None
    if config.bootstrapping is not None:
        share = config.bootstrapping.share
        wanted = len(selection.dropped) if share is None else share_of(share, len(data.train))
        queries = distinct_queries(data.train)
        if wanted:
            added = bootstrap(session, number, queries, config, ledger, panel, count=wanted)
    noise = None
    if config.noise is not None:
        noise = noise_removal(margins, flipped=data.flipped, dropped={record.id for record in selection.dropped})
    return Review(
        [pair for pair in data.train if pair.id in names], selection.dropped, added, noise, dict(selection.thresholds)
    )


def train_round(
    session: Session,
    number: int,
    review: Review,
    data: OfflineData,
    config: SeraConfig,
    ledger: LogprobLedger,
    policies: Sequence[str],
) -> Round:
    """Train round `number` on what the review left, and measure the new policy on the held-out pairs."""
    place = f"round-{number}/"
    trained = train_on(
        session, place, review.pairs, config, ledger,
        start=policies[-1] if config.start == "previous" else config.model,
        reference=policies[-1] if config.reference == "previous" else config.model,
        seed=round_seed(config.seed, number),
    )  # fmt: skip
    accuracy = held_out_accuracy(session, place, data.held_out, config, ledger, policy=str(trained.folder))
    return Round(review, trained, accuracy)


def round_seed(seed: int, number: int) -> int:
    """Return the seed of a round's training: the run's own in round 1, so that it is what `windvane train` does."""
    return seed if number == 1 else derive_seed(seed, "round", number)


def round_numbers(each: Round) -> dict[str, Any]:
    """Return what ``summary.json`` and the table on the screen say of a round."""
    review, held_out = each.review, each.held_out
    return {
        "pairs_kept": len(review.kept),
        "pairs_dropped": len(review.dropped),
        "pairs_added": len(review.added.pairs) if review.added else 0,
        "token_price": review.added.token_price if review.added else None,
        "thresholds": review.thresholds,
        "noise": review.noise,
        "held_out": held_out,
        "policy": each.policy.folder,
        "steps": each.policy.note.steps,
        "final_loss": each.policy.note.final_loss,
    }
