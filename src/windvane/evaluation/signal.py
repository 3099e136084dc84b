"""Signal statistics: how good the pairs are that a policy makes for itself, before and after the filter.

A self-made signal fails quietly: the principles may stop making a difference (accuracy, gap), the pairs may drift from
what the policy would write (on-policy probability), or one side may win by its length. These numbers show it for each
iteration.
"""

import math
from collections.abc import Callable, Collection, Sequence
from statistics import fmean

from windvane.evaluation.diversity import distinct2
from windvane.evaluation.intervals import WinRate, win_rate
from windvane.judging.measures import bigram_counts
from windvane.judging.rules import Rule, compare
from windvane.selection import gap_chosen, gap_rejected
from windvane.types import Query, Record, ScoredPair

Interval = tuple[float, float]

DRAWN = 500
"""Bigrams that the diversity is taken on: the same number everywhere, so that iterations can be compared."""


class SignalStatistics(Record):
    """The signal of one iteration. A name without ``_kept`` is over all scored pairs, with it over the kept ones.

    None stands where there is nothing to take a mean of, or no rule to judge by.
    """

    n: int
    """Scored pairs."""
    n_kept: int
    """Pairs that the selection kept."""
    pair_accuracy: float | None
    """Share, 0 to 1, of pairs whose y⁺ is better than y⁻ by the rule; ties count half."""
    pair_accuracy_ci: Interval | None
    """95 % interval."""
    judged: int
    """Pairs behind `pair_accuracy`: those on which the rule had a verdict."""
    pair_accuracy_kept: float | None
    pair_accuracy_kept_ci: Interval | None
    judged_kept: int
    onpolicy_prob_chosen: float | None
    """Mean of ``exp(mean_logp(y⁺|x))``: the probability, 0 to 1, of a typical token of y⁺ without any principle."""
    onpolicy_prob_chosen_kept: float | None
    onpolicy_prob_rejected: float | None
    """The same of y⁻."""
    onpolicy_prob_rejected_kept: float | None
    gap_chosen: float | None
    """Mean of ``mean_logp(y⁺|x⁺) - mean_logp(y⁺|x⁻)``, nats per token."""
    gap_chosen_kept: float | None
    gap_rejected: float | None
    """Mean of ``mean_logp(y⁻|x⁻) - mean_logp(y⁻|x⁺)``, nats per token."""
    gap_rejected_kept: float | None
    mean_words_chosen: float | None
    """Words of y⁺."""
    mean_words_chosen_kept: float | None
    mean_words_rejected: float | None
    """Words of y⁻."""
    mean_words_rejected_kept: float | None
    mean_words_original: float | None
    """Words of yᵒ, the policy's answers to the plain queries; None where a pair has none."""
    mean_words_original_kept: float | None
    cutoff_share_chosen: float | None
    """Share, 0 to 1, of y⁺ that the token limit cut off."""
    cutoff_share_chosen_kept: float | None
    cutoff_share_rejected: float | None
    """Share, 0 to 1, of y⁻ that the token limit cut off."""
    cutoff_share_rejected_kept: float | None
    distinct2_chosen: float | None
    """Distinct word bigrams per bigram of y⁺, 0 to 1, on 500 bigrams (see `distinct2`); None where there are fewer."""
    distinct2_chosen_kept: float | None


def signal_statistics(
    scored: Sequence[ScoredPair], kept_ids: Collection[str], rule: Rule | None = None
) -> SignalStatistics:
    """Return the statistics of `scored` pairs and of those among them whose id is in `kept_ids`.

    Raises ValueError for a kept id that no scored pair has.
    """
    ids = {pair.pair.id for pair in scored}
    strangers = sorted(set(kept_ids) - ids)
    if strangers:
        raise ValueError(f"{len(strangers)} kept pairs were never scored, such as {strangers[0]!r}: join them by id")
    kept = [pair for pair in scored if pair.pair.id in set(kept_ids)]
    accuracy, accuracy_kept = _accuracy(scored, rule), _accuracy(kept, rule)
    means: dict[str, float | None] = {name: _mean(scored, value) for name, value in _QUANTITIES.items()}
    means_kept = {f"{name}_kept": _mean(kept, value) for name, value in _QUANTITIES.items()}
    return SignalStatistics(
        n=len(scored),
        n_kept=len(kept),
        pair_accuracy=accuracy.rate,
        pair_accuracy_ci=accuracy.interval,
        judged=accuracy.n,
        pair_accuracy_kept=accuracy_kept.rate,
        pair_accuracy_kept_ci=accuracy_kept.interval,
        judged_kept=accuracy_kept.n,
        **means,
        **means_kept,
        mean_words_original=_words_original(scored),
        mean_words_original_kept=_words_original(kept),
        distinct2_chosen=_distinct2(scored),
        distinct2_chosen_kept=_distinct2(kept),
    )


_QUANTITIES: dict[str, Callable[[ScoredPair], float]] = {
    "onpolicy_prob_chosen": lambda pair: math.exp(pair.scores.chosen_plain.mean),
    "onpolicy_prob_rejected": lambda pair: math.exp(pair.scores.rejected_plain.mean),
    "gap_chosen": lambda pair: gap_chosen(pair.scores),
    "gap_rejected": lambda pair: gap_rejected(pair.scores),
    "mean_words_chosen": lambda pair: pair.pair.chosen.words,
    "mean_words_rejected": lambda pair: pair.pair.rejected.words,
    "cutoff_share_chosen": lambda pair: pair.pair.chosen.finish == "length",
    "cutoff_share_rejected": lambda pair: pair.pair.rejected.finish == "length",
}


def _words_original(pairs: Sequence[ScoredPair]) -> float | None:
    words = [pair.pair.original.words for pair in pairs if pair.pair.original is not None]
    return fmean(words) if words and len(words) == len(pairs) else None


def _mean(pairs: Sequence[ScoredPair], value: Callable[[ScoredPair], float]) -> float | None:
    return fmean(value(pair) for pair in pairs) if pairs else None


def _distinct2(pairs: Sequence[ScoredPair]) -> float | None:
    counts = bigram_counts(pair.pair.chosen.text for pair in pairs)
    return distinct2(counts, DRAWN) if counts.total() >= DRAWN else None


def _accuracy(pairs: Sequence[ScoredPair], rule: Rule | None) -> WinRate:
    if rule is None:
        return win_rate([])
    queries = [Query(id=pair.pair.id, messages=pair.pair.prompt, source=pair.pair.source) for pair in pairs]
    return win_rate(
        [compare(rule, query, pair.pair.chosen, pair.pair.rejected) for query, pair in zip(queries, pairs, strict=True)]
    )
