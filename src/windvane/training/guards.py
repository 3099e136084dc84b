"""What stops a training run before it does harm, each with the numbers and the way out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from windvane.errors import DataError, TrainingDiverged
from windvane.training.examples import TrainingExample
from windvane.training.settings import GuardSettings

StepMetrics = Mapping[str, float]
"""One entry of the history: what `PreferenceTrainer` logs for an optimizer step."""


def check_data(examples: Sequence[TrainingExample], guards: GuardSettings, *, end_ids: frozenset[int]) -> None:
    """Refuse pairs that teach nothing but length, or never to stop. Raises `DataError`.

    `end_ids` are the token ids that end a response; without any the second check has nothing to look for.
    """
    pairs = [next(iter(example.views.values())) for example in examples]
    chosen = sum(len(pair.chosen) for pair in pairs) / len(pairs)
    rejected = sum(len(pair.rejected) for pair in pairs) / len(pairs)
    ratio = max(chosen, rejected) / min(chosen, rejected)
    if guards.max_length_ratio is not None and ratio > guards.max_length_ratio:
        raise DataError(
            f"Chosen responses have {chosen:.1f} tokens on average and rejected ones {rejected:.1f}: a ratio of "
            f"{ratio:.1f}, above training.guards.max_length_ratio = {guards.max_length_ratio:g}, so training would "
            "teach length and little else. Filter the pairs, or raise the limit if that is what you want."
        )
    cut = sum(pair.chosen[-1] not in end_ids for pair in pairs) / len(pairs)
    if guards.max_cut_share is not None and end_ids and cut > guards.max_cut_share:
        raise DataError(
            f"{cut:.0%} of the chosen responses were cut off before their end, above training.guards.max_cut_share = "
            f"{guards.max_cut_share:.0%}: the policy would not learn to stop. Sample with more new tokens, drop the "
            "pairs that were cut off, or raise the limit."
        )


def check_start(difference: float, loss: float, expected_loss: float, tolerance: float) -> None:
    """Compare the policy with its reference before the first optimizer step. Raises `TrainingDiverged`.

    `difference` is the mean of ``|logp_policy - logp_reference| / tokens`` over the step's responses, nats per token;
    `expected_loss` is what the objective gives where policy and reference are the same.
    """
    if math.isfinite(difference) and difference <= tolerance:
        return
    raise TrainingDiverged(
        f"Before the first step the policy must equal its reference, but their log-probabilities differ by "
        f"{difference:.3g} nats per token on average (limit training.guards.step0_tolerance = {tolerance:g}); the "
        f"loss is {loss:.4g} where {expected_loss:.4g} was due. Either the reference was scored with another "
        "model, adapter, chat template or number format than the one that is trained, or its rows were joined to "
        "the wrong pairs. Score the reference again with this very model, or set training.reference to frozen."
    )


def check_step(step: int, metrics: StepMetrics) -> None:
    """Stop at a loss or a gradient that is no number. Raises `TrainingDiverged`."""
    for name in ("loss", "grad_norm"):
        value = metrics.get(name, 0.0)
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"The {name.replace('_', ' ')} of step {step} is {value}. Lower training.learning_rate (it was "
                f"{metrics.get('learning_rate', math.nan):.3g}), compute in float32 (training.precision: fp32), or "
                "look for broken pairs; the last checkpoint is from before this step."
            )


def check_fall(history: Sequence[StepMetrics], guards: GuardSettings) -> None:
    """Stop when both sides of the pairs have become much less likely than under the reference.

    Raises `TrainingDiverged`. `history` is that of the whole run; steps without a reference say nothing.
    """
    recent = [entry for entry in history if "chosen_change" in entry][-guards.window :]
    if guards.max_fall is None or len(recent) < guards.window:
        return
    chosen = sum(entry["chosen_change"] for entry in recent) / len(recent)
    rejected = sum(entry["rejected_change"] for entry in recent) / len(recent)
    if chosen < -guards.max_fall and rejected < -guards.max_fall:
        raise TrainingDiverged(
            f"Over the last {len(recent)} steps the chosen responses were {-chosen:.2f} and the rejected ones "
            f"{-rejected:.2f} nats per token less likely than under the reference; both are above "
            f"training.guards.max_fall = {guards.max_fall:g}. The policy is moving to answers that are in no "
            "pair. Lower training.learning_rate, raise the loss's beta, or add loss.nll_weight."
        )
