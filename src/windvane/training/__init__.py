"""Training on preference pairs: examples, batches, references, guards, and the one trainer."""

from windvane.training.examples import (
    EncodedPair,
    TrainingExample,
    encode_pair,
    encode_steering_pair,
    join_reference,
)
from windvane.training.policy import TrainingResult, train_policy
from windvane.training.progress import MetricsFile, RichProgress
from windvane.training.reference import adapter_off, frozen_copy, score_reference
from windvane.training.settings import GuardSettings, LoraSettings, TrainingSettings
from windvane.training.trainer import PreferenceTrainer, TrainerOptions

__all__ = [
    "EncodedPair",
    "GuardSettings",
    "LoraSettings",
    "MetricsFile",
    "PreferenceTrainer",
    "RichProgress",
    "TrainerOptions",
    "TrainingExample",
    "TrainingResult",
    "TrainingSettings",
    "adapter_off",
    "encode_pair",
    "encode_steering_pair",
    "frozen_copy",
    "join_reference",
    "score_reference",
    "train_policy",
]
