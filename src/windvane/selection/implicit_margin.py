"""SeRA's selector: keep the pairs that the policy is surest of, by its implicit reward margin (arXiv:2410.09362).

The implicit reward of a response is what a preference loss makes of the policy's own log-probabilities. Its form is the
loss's: the log-ratio to the reference for DPO and its kin, the same per token for IPO, and no reference at all for
SimPO and ORPO. Factors such as β are left out, as they change no order.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import Field

from windvane.config import Settings
from windvane.errors import DataError
from windvane.selection.result import Selection
from windvane.shares import share_of
from windvane.types import Dropped, Logprob, Record, SideScores

RewardForm = Literal["log_ratio", "mean_log_ratio", "mean_logp", "log_odds"]
"""``log_ratio``: log(π(y|x)/π_ref(y|x)), nats. ``mean_log_ratio``: the same per response token. ``mean_logp``:
mean_logp(y|x), no reference. ``log_odds``: log(p/(1-p)) with p = exp(mean_logp(y|x)), no reference."""

Share = Annotated[float, Field(gt=0, le=1)]

_CERTAIN = -1e-6
"""Nats per token beyond which odds count as those of certainty: as in ORPO's loss, they would be infinite."""


def needs_reference(form: RewardForm) -> bool:
    """Return whether a reward of this form compares with a reference."""
    return form in ("log_ratio", "mean_log_ratio")


def implicit_reward(form: RewardForm, policy: Logprob, reference: Logprob | None) -> float:
    """Return ``r(x, y)/β`` of one response, in nats (``log_ratio``) or nats per token (the others).

    Raises ValueError where the form needs a reference and none is given.
    """
    if form == "mean_logp":
        return policy.mean
    if form == "log_odds":
        mean = min(policy.mean, _CERTAIN)
        return mean - math.log(-math.expm1(mean))
    if reference is None:
        raise ValueError(f"an implicit reward of the form {form} needs the reference's log-probability")
    ratio = policy.sum - reference.sum
    return ratio if form == "log_ratio" else ratio / policy.tokens


def implicit_margin(form: RewardForm, policy: SideScores, reference: SideScores | None) -> float:
    """Return ``m = (r(x, chosen) - r(x, rejected))/β``; swapping the sides negates it, and π = π_ref gives 0."""
    chosen = implicit_reward(form, policy.chosen, None if reference is None else reference.chosen)
    return chosen - implicit_reward(form, policy.rejected, None if reference is None else reference.rejected)


def ensembled(last: float, before: float | None, *, gamma: float) -> float:
    """Return ``γ·m_{t-1} + (1-γ)·m_{t-2}`` of a margin or a reward; `last` alone where there is no earlier policy."""
    return last if before is None else gamma * last + (1 - gamma) * before


class PairMargin(Record):
    """What the policy thinks of one pair: positive where it prefers the response that is labelled as chosen."""

    id: str
    source: str | None = None
    margin: float
    """m̃: the ensembled implicit reward margin of chosen over rejected, in nats or nats per token."""
    last: float
    """m under the policy of the round before."""
    before: float | None = None
    """m under the policy of the round before that, where there is one."""


class HasSource(Protocol):
    """A pair of any kind."""

    @property
    def source(self) -> str | None:
        """Where it comes from."""


class MarginFilterSettings(Settings):
    """Which pairs are kept, by their implicit reward margin."""

    keep: Share = 0.7
    """Share of the pairs that is kept, those of the largest margins; 1 keeps all."""
    by_source: bool | dict[str, Share] = False
    """Whether `keep` holds within each source of the data; a mapping gives sources a share of their own, as in
    ``{forum: 0.5}``, and the others `keep`. A source with larger margins would crowd out the rest otherwise."""
    reward: Literal["auto"] | RewardForm = "auto"
    """Form of the implicit reward; `auto` is the one that the loss trains, or where there is none, ``log_ratio``."""

    @property
    def keeps_all(self) -> bool:
        """Whether nothing can be dropped."""
        own = self.by_source if isinstance(self.by_source, dict) else {}
        return all(share == 1 for share in (self.keep, *own.values()))

    def check_sources(self, pairs: Iterable[HasSource]) -> None:
        """Raise `DataError` for a source in `by_source` that none of the pairs has."""
        own = self.by_source if isinstance(self.by_source, dict) else {}
        known = sorted({pair.source for pair in pairs if pair.source is not None})
        for name in own:
            if name not in known:
                raise DataError(
                    f"selection.by_source names the source {name!r}, which no pair has; the data has "
                    f"{', '.join(map(repr, known)) or 'none'}"
                )


class ImplicitMarginSettings(MarginFilterSettings):
    """Which pairs a round of SeRA keeps, by the last two policies."""

    gamma: float = Field(default=0.7, gt=0, le=1)
    """γ: weight of the last policy's margin, the rest is the one's before it; 1 is the last policy alone."""


def select_by_margin(pairs: Sequence[PairMargin], settings: MarginFilterSettings) -> Selection[PairMargin]:
    """Return the pairs of the largest margins: ``keep · n`` of them, rounded half up, and one at the least.

    Dropped for ``not_finite`` (a margin that is no finite number) or ``low_margin``. Among equal margins the smaller
    id is kept, so the order of `pairs` does not matter; kept and dropped stay in it. Raises `DataError` for a source
    in `by_source` that no pair has, and where all margins are the same, which tells nothing apart.
    """
    finite = [pair for pair in pairs if math.isfinite(pair.margin)]
    _refuse_flat(finite, settings)
    kept: set[str] = set()
    thresholds: dict[str | None, float] = {}
    for group, (share, members) in _groups(pairs, finite, settings).items():
        ranked = sorted(members, key=lambda pair: (-pair.margin, pair.id))
        best = ranked[: max(1, share_of(share, len(ranked)))]
        kept.update(pair.id for pair in best)
        thresholds[group] = best[-1].margin
    dropped = [_reason(pair, thresholds.get(_group(pair, settings))) for pair in pairs if pair.id not in kept]
    named = {_named(group, settings): threshold for group, threshold in thresholds.items()}
    return Selection(tuple(pair for pair in pairs if pair.id in kept), tuple(dropped), named)


def _refuse_flat(pairs: Sequence[PairMargin], settings: MarginFilterSettings) -> None:
    values = {pair.margin for pair in pairs}
    if not settings.keeps_all and len(pairs) > 1 and len(values) == 1:
        raise DataError(
            f"all {len(pairs)} margins are {pairs[0].margin:g}, so none of the pairs can be told from another: policy "
            "and reference are the same model, or training has not moved the policy (is its learning rate too small?)"
        )


def _group(pair: PairMargin, settings: MarginFilterSettings) -> str | None:
    """Return the source among whose pairs this one is ranked; None is that of pairs without one, or of all pairs."""
    return None if settings.by_source is False else pair.source


def _named(group: str | None, settings: MarginFilterSettings) -> str:
    return "margin" if settings.by_source is False else f"margin of {group or 'no source'}"


def _groups(
    pairs: Iterable[PairMargin], finite: Iterable[PairMargin], settings: MarginFilterSettings
) -> dict[str | None, tuple[float, list[PairMargin]]]:
    """Return the finite pairs by group, with the share that is kept of each."""
    settings.check_sources(pairs)
    own = settings.by_source if isinstance(settings.by_source, dict) else {}
    groups: dict[str | None, tuple[float, list[PairMargin]]] = {}
    for pair in finite:
        share = settings.keep if pair.source is None else own.get(pair.source, settings.keep)
        groups.setdefault(_group(pair, settings), (share, []))[1].append(pair)
    return groups


def _reason(pair: PairMargin, lowest: float | None) -> Dropped:
    if lowest is None or not math.isfinite(pair.margin):
        return Dropped(id=pair.id, reason="not_finite", detail=f"margin {pair.margin}")
    return Dropped(id=pair.id, reason="low_margin", detail=f"margin {pair.margin:.4f}, kept from {lowest:.4f} on")
