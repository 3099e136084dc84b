"""SeRA's selector in an iteration of SSO: the policy reviews the pairs that it made."""

from collections.abc import Mapping, Sequence

from windvane.losses import SsoGeneratorSettings, SsoSettings
from windvane.recipes.contrast import score_with
from windvane.recipes.offline import keep_margins
from windvane.recipes.session import Session
from windvane.recipes.sso_config import SSOConfig
from windvane.selection import PairMargin, RewardForm, Selection, implicit_margin, select_by_margin
from windvane.selection.implicit_margin import needs_reference
from windvane.types import Pair, PairScores, ReferencedPair, ScoredPair, ScoreRequest, SideScores


def scores_of_initial(
    session: Session, stage: str, pairs: Sequence[ScoredPair], config: SSOConfig, *, policy: str
) -> dict[str, ScoredPair]:
    """Measure pairs with the model that the run began with, by id, where the loss compares with it.

    Empty where it does not, and where `policy` is that model.
    """
    if policy == config.model or config.reference != "initial":
        return {}
    bare = [scored.pair for scored in pairs]
    found = score_with(session, f"{stage}/reference", bare, model=config.model, shard_size=config.shard_size)
    return {scored.pair.id: scored for scored in found}


def review_by_margin(
    session: Session,
    stage: str,
    pairs: Sequence[ScoredPair],
    initial: Mapping[str, ScoredPair],
    config: SSOConfig,
    *,
    policy: str,
) -> Selection[ScoredPair]:
    """Keep the pairs of the largest margin of `policy` over the first model, both given the plain query.

    `initial` is what `scores_of_initial` returned; where it measured nothing, the two log-probabilities that a margin
    reads are measured here. All are kept where `margin_selection` is null, and in the first iteration, whose policy is
    that model.
    """
    if config.margin_selection is None or policy == config.model:
        return Selection(tuple(pairs), ())
    form = _form(config)
    reference = {name: _plain(scored.scores) for name, scored in initial.items()}
    if needs_reference(form) and not reference:
        reference = _plain_scores(session, stage, [scored.pair for scored in pairs], config)

    def margin(mine: ScoredPair) -> PairMargin:
        value = implicit_margin(form, _plain(mine.scores), reference.get(mine.pair.id))
        return PairMargin(id=mine.pair.id, source=mine.pair.source, margin=value, last=value)

    margins = [margin(pair) for pair in pairs]
    selection = select_by_margin(margins, config.margin_selection)
    keep_margins(session, f"{stage}/margin", margins, selection)
    names = {each.id for each in selection.kept}
    return Selection(tuple(pair for pair in pairs if pair.pair.id in names), selection.dropped, selection.thresholds)


def _plain_scores(session: Session, stage: str, pairs: Sequence[Pair], config: SSOConfig) -> dict[str, SideScores]:
    """Measure the two sides of pairs given the plain query with the first model, as a stage of the run; by id."""
    run, bench, _ = session

    def score(shard: Sequence[Pair]) -> list[ReferencedPair]:
        requests = [ScoreRequest(pair.prompt, (pair.chosen, pair.rejected)) for pair in shard]
        found = bench.engine(config.model).score(requests, advance=run.advance)
        return [
            ReferencedPair(pair=pair, reference=SideScores(chosen=chosen, rejected=rejected))
            for pair, (chosen, rejected) in zip(shard, found, strict=True)
        ]

    measured = run.map(
        f"{stage}/reference", pairs, score, ReferencedPair, shard_size=config.shard_size, label="log-probabilities",
        inputs=bench.identity(config.model),
    )  # fmt: skip
    return {each.pair.id: each.reference for each in measured if each.reference is not None}


def _form(config: SSOConfig) -> RewardForm:
    assert config.margin_selection is not None
    if config.margin_selection.reward != "auto":
        return config.margin_selection.reward
    loss = config.loss
    return (loss.base if isinstance(loss, (SsoSettings, SsoGeneratorSettings)) else loss).implicit_reward


def _plain(scores: PairScores) -> SideScores:
    return SideScores(chosen=scores.chosen_plain, rejected=scores.rejected_plain)
