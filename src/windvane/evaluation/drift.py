"""A guard between iterations: does the policy still write like the model that the run began with?

A self-made signal can feed on itself. Length is where it runs away first: what is a little shorter (or longer) in one
round is where the next round starts from. The gap is the other sign: once the two principles pull the answers very far
apart, the pairs are no longer near what the policy would write.
"""

from pydantic import Field

from windvane.config import Settings
from windvane.errors import TrainingDiverged
from windvane.evaluation.signal import SignalStatistics


class DriftLimits(Settings):
    """How far an iteration may be from the first one before the run stops. Null turns a limit off."""

    length_ratio: float | None = Field(default=4.0, gt=1)
    """Times that the plain answers yᵒ may have become longer, or shorter, on average."""
    gap_ratio: float | None = Field(default=4.0, gt=1)
    """Times that the gap between the principles may have grown, on average of y⁺ and y⁻."""


def check_drift(first: SignalStatistics, now: SignalStatistics, limits: DriftLimits) -> None:
    """Raise `TrainingDiverged` where `now`, the signal of a later iteration, is beyond the limits.

    A quantity that is missing, or not positive at the start, has no ratio and is passed over.
    """
    length = _ratio(first.mean_words_original, now.mean_words_original)
    if limits.length_ratio is not None and length is not None and max(length, 1 / length) > limits.length_ratio:
        raise TrainingDiverged(
            f"the policy's plain answers went from {first.mean_words_original:.1f} to "
            f"{now.mean_words_original:.1f} words on average, beyond drift.length_ratio = {limits.length_ratio:g}. "
            "The policy of the iteration before is "
            "on file. Train more gently (learning_rate, epochs), with fewer iterations, or raise the limit."
        )
    gap = _ratio(_gap(first), _gap(now))
    if limits.gap_ratio is not None and gap is not None and gap > limits.gap_ratio:
        raise TrainingDiverged(
            f"the gap between the principles went from {_gap(first):.2f} to {_gap(now):.2f} nats per token, beyond"
            f" drift.gap_ratio = {limits.gap_ratio:g}: the pairs are no longer near what the policy writes. Train more"
            " gently (learning_rate, epochs), with fewer iterations, or raise the limit."
        )


def _gap(signal: SignalStatistics) -> float | None:
    if signal.gap_chosen is None or signal.gap_rejected is None:
        return None
    return (signal.gap_chosen + signal.gap_rejected) / 2


def _ratio(before: float | None, after: float | None) -> float | None:
    """Return after / before where both are positive, else None."""
    return after / before if before is not None and after is not None and before > 0 and after > 0 else None
