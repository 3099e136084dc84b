"""SeRA's selector in an iteration of SSO: the policy reviews the pairs that it made."""

from collections.abc import Mapping, Sequence

from windvane.losses import SsoGeneratorSettings, SsoSettings
from windvane.recipes.contrast import score_with
from windvane.recipes.offline import keep_margins
from windvane.recipes.session import Session
from windvane.recipes.sso_config import SSOConfig
from windvane.selection import PairMargin, RewardForm, Selection, implicit_margin, select_by_margin
from windvane.selection.implicit_margin import needs_reference
from windvane.types import PairScores, ScoredPair, SideScores


def scores_of_initial(
    session: Session, stage: str, pairs: Sequence[ScoredPair], config: SSOConfig, *, policy: str
) -> dict[str, ScoredPair]:
    """Measure pairs with the model that the run began with, by id: once, for the margin and for the loss.

    Empty where neither compares with it, and where `policy` is that model.
    """
    for_margin = config.margin_selection is not None and needs_reference(_form(config))
    if policy == config.model or not (for_margin or config.reference == "initial"):
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

    All are kept where `margin_selection` is null, and in the first iteration, whose policy is that model.
    """
    if config.margin_selection is None or policy == config.model:
        return Selection(tuple(pairs), ())
    form = _form(config)

    def margin(mine: ScoredPair) -> PairMargin:
        reference = _plain(initial[mine.pair.id].scores) if needs_reference(form) else None
        value = implicit_margin(form, _plain(mine.scores), reference)
        return PairMargin(id=mine.pair.id, source=mine.pair.source, margin=value, last=value)

    margins = [margin(pair) for pair in pairs]
    selection = select_by_margin(margins, config.margin_selection)
    keep_margins(session, f"{stage}/margin", margins, selection)
    names = {each.id for each in selection.kept}
    return Selection(tuple(pair for pair in pairs if pair.pair.id in names), selection.dropped, selection.thresholds)


def _form(config: SSOConfig) -> RewardForm:
    assert config.margin_selection is not None
    if config.margin_selection.reward != "auto":
        return config.margin_selection.reward
    loss = config.loss
    return (loss.base if isinstance(loss, (SsoSettings, SsoGeneratorSettings)) else loss).implicit_reward


def _plain(scores: PairScores) -> SideScores:
    return SideScores(chosen=scores.chosen_plain, rejected=scores.rejected_plain)
