"""Which pairs go on to training: one file per selector, each returns what it kept and what it dropped, with reasons."""

from windvane.selection.implicit_margin import (
    ImplicitMarginSettings,
    MarginFilterSettings,
    PairMargin,
    RewardForm,
    ensembled,
    implicit_margin,
    implicit_reward,
    select_by_margin,
)
from windvane.selection.margins import PairLogprobs, implicit_reward_margin
from windvane.selection.noise import FlippedPairs, NoiseRemoval, NoiseSettings, flip_labels, noise_removal
from windvane.selection.result import Selection, SelectionSummary
from windvane.selection.steering import SteeringFilterSettings, gap_chosen, gap_rejected, steering_filter

__all__ = [
    "FlippedPairs",
    "ImplicitMarginSettings",
    "MarginFilterSettings",
    "NoiseRemoval",
    "NoiseSettings",
    "PairLogprobs",
    "PairMargin",
    "RewardForm",
    "Selection",
    "SelectionSummary",
    "SteeringFilterSettings",
    "ensembled",
    "flip_labels",
    "gap_chosen",
    "gap_rejected",
    "implicit_margin",
    "implicit_reward",
    "implicit_reward_margin",
    "noise_removal",
    "select_by_margin",
    "steering_filter",
]
