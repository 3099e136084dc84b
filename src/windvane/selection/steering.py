"""SSO's filter: pairs that the policy could have written itself, and that the principles move in opposite ways.

All quantities are mean log-probabilities in nats per response token, under the policy that sampled the pair.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from statistics import mean
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from windvane.config import Settings
from windvane.judging.rules import Rule, RuleSettings
from windvane.selection.result import Selection
from windvane.types import Dropped, PairScores, Query, ScoredPair

ThresholdRule = Literal["mean"] | Annotated[float, Field(ge=0, lt=1)] | None
"""How a threshold is found among the pairs that are left: their mean, a quantile of theirs (0.25), or no such step."""


class SteeringFilterSettings(Settings):
    """The steps of the steering filter, in their order; each looks at what the steps before it have left."""

    rule: RuleSettings | None = None
    """Keep a pair only if its y⁺ is better than its y⁻ by this rule; null asks none. Not in the paper: for principles
    whose effect a rule can tell, and that a small model follows only now and then."""
    ordering: bool = True
    """Keep a pair only if each response is likelier under its own principle than under none, and under none than
    under the opposite one: the principles steer, and in opposite ways."""
    on_policy: ThresholdRule = "mean"
    """Keep pairs whose y⁺ and y⁻ are both likely without a principle, at or above a threshold each: the ``mean``, a
    quantile (0.25 keeps about the upper three quarters on each side), or null for no such step."""
    gap: ThresholdRule = "mean"
    """Keep pairs on whose y⁺ and y⁻ the two principles differ most, above a threshold each: the ``mean``, a quantile (a
    pair at it stays), or null for no such step."""


def gap_chosen(scores: PairScores) -> float:
    """Return ``mean_logp(y⁺|x⁺) - mean_logp(y⁺|x⁻)``, nats per token."""
    return scores.chosen_good.mean - scores.chosen_bad.mean


def gap_rejected(scores: PairScores) -> float:
    """Return ``mean_logp(y⁻|x⁻) - mean_logp(y⁻|x⁺)``, nats per token."""
    return scores.rejected_bad.mean - scores.rejected_good.mean


def steering_filter(scored: Sequence[ScoredPair], settings: SteeringFilterSettings) -> Selection[ScoredPair]:
    """Return the pairs that pass every step, and the others with the first step that they fail.

    Steps: ``not_finite`` (always: a log-probability that is no finite number), ``rule``, ``ordering``, ``on_policy``,
    ``gap``.
    Thresholds are taken over the pairs that the steps before have left, as in the authors' code; a pair at a mean
    passes ``on_policy`` and fails ``gap`` (theirs compares with ``>=`` there and ``>`` here), a pair at a quantile
    passes either. Kept and dropped pairs stay in the given order, and who is kept does not depend on that order: the
    thresholds are computed exactly.
    """
    kept, dropped = _part(scored, "not_finite", _check_finite)
    thresholds: dict[str, float] = {}
    if settings.rule is not None:
        kept, more = _part_by_rule(kept, settings.rule)
        dropped += more
    if settings.ordering:
        kept, more = _part(kept, "ordering", _check_ordering)
        dropped += more
    for step in (_on_policy_step(settings.on_policy), _gap_step(settings.gap)):
        if step is None or not kept:
            continue
        chosen = _threshold([step.chosen(pair.scores) for pair in kept], step.rule)
        rejected = _threshold([step.rejected(pair.scores) for pair in kept], step.rule)
        thresholds |= {f"{step.name}_chosen": chosen, f"{step.name}_rejected": rejected}
        kept, more = _part(kept, step.name, step.check(chosen, rejected))
        dropped += more
    return Selection(tuple(kept), tuple(_in_order(scored, dropped)), thresholds)


Check = Callable[[PairScores], str | None]
"""Returns the numbers on which a pair fails, or None if it passes."""


class _Step(NamedTuple):
    """A step that compares one number of y⁺ and one of y⁻ with a threshold each."""

    name: str
    chosen: Callable[[PairScores], float]
    rejected: Callable[[PairScores], float]
    rule: Literal["mean"] | float
    strict: bool
    """Whether a pair at the threshold fails."""

    def check(self, chosen: float, rejected: float) -> Check:
        """Return the check against two thresholds."""

        def failed(scores: PairScores) -> str | None:
            sides = (("y⁺", self.chosen(scores), chosen), ("y⁻", self.rejected(scores), rejected))
            sign = "≤" if self.strict else "<"
            failures = [
                f"{name} {value:.4f} {sign} {limit:.4f}"
                for name, value, limit in sides
                if value < limit or (self.strict and value == limit)
            ]
            return ", ".join(failures) or None

        return failed


def _on_policy_step(rule: ThresholdRule) -> _Step | None:
    if rule is None:
        return None
    return _Step("on_policy", lambda s: s.chosen_plain.mean, lambda s: s.rejected_plain.mean, rule, strict=False)


def _gap_step(rule: ThresholdRule) -> _Step | None:
    return None if rule is None else _Step("gap", gap_chosen, gap_rejected, rule, strict=rule == "mean")


def _part(scored: Sequence[ScoredPair], reason: str, check: Check) -> tuple[list[ScoredPair], list[Dropped]]:
    kept: list[ScoredPair] = []
    dropped: list[Dropped] = []
    for pair in scored:
        detail = check(pair.scores)
        if detail is None:
            kept.append(pair)
        else:
            dropped.append(Dropped(id=pair.pair.id, reason=reason, detail=detail))
    return kept, dropped


def _part_by_rule(scored: Sequence[ScoredPair], rule: Rule) -> tuple[list[ScoredPair], list[Dropped]]:
    kept: list[ScoredPair] = []
    dropped: list[Dropped] = []
    for one in scored:
        pair = one.pair
        query = Query(id=pair.id, messages=pair.prompt, source=pair.source)
        chosen, rejected = rule.score(pair.chosen, query), rule.score(pair.rejected, query)
        if chosen > rejected:
            kept.append(one)
        else:
            dropped.append(Dropped(id=pair.id, reason="rule", detail=f"y⁺ {chosen:.4g} ≤ y⁻ {rejected:.4g}"))
    return kept, dropped


def _in_order(scored: Sequence[ScoredPair], dropped: Sequence[Dropped]) -> list[Dropped]:
    position = {pair.pair.id: index for index, pair in enumerate(scored)}
    return sorted(dropped, key=lambda record: position[record.id])


def _named(scores: PairScores) -> dict[str, float]:
    return {
        "y⁺|x⁺": scores.chosen_good.mean,
        "y⁺|x": scores.chosen_plain.mean,
        "y⁺|x⁻": scores.chosen_bad.mean,
        "y⁻|x⁻": scores.rejected_bad.mean,
        "y⁻|x": scores.rejected_plain.mean,
        "y⁻|x⁺": scores.rejected_good.mean,
    }


def _check_finite(scores: PairScores) -> str | None:
    values = {**_named(scores), "yᵒ|x⁻": scores.original_bad.mean}  # the filter does not read it, but the loss will
    return ", ".join(f"{name} {value}" for name, value in values.items() if not math.isfinite(value)) or None


def _check_ordering(scores: PairScores) -> str | None:
    values = _named(scores)
    chain = [("y⁺|x⁺", "y⁺|x"), ("y⁺|x", "y⁺|x⁻"), ("y⁻|x⁻", "y⁻|x"), ("y⁻|x", "y⁻|x⁺")]
    failures = [f"{a} {values[a]:.4f} ≤ {b} {values[b]:.4f}" for a, b in chain if values[a] <= values[b]]
    return ", ".join(failures) or None


def _threshold(values: Sequence[float], rule: Literal["mean"] | float) -> float:
    """Return the mean, or the quantile with linear interpolation; exact, so that no order of summing can matter."""
    if rule == "mean":
        return float(mean(Fraction(value) for value in values))
    ordered = sorted(values)
    below, part = divmod(rule * (len(ordered) - 1), 1)
    low, high = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
    return min(low + part * (high - low), high)
