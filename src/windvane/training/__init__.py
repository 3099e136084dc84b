"""Training on preference pairs: examples, batches, references, guards, and the one trainer.

Names are imported when they are first used: a configuration needs `TrainingSettings` and no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "EncodedPair": "examples",
    "GuardSettings": "settings",
    "LoraSettings": "settings",
    "MetricsFile": "progress",
    "PreferenceTrainer": "trainer",
    "RichProgress": "progress",
    "TrainerOptions": "trainer",
    "TrainingExample": "examples",
    "TrainingResult": "policy",
    "TrainingSettings": "settings",
    "adapter_off": "reference",
    "encode_pair": "examples",
    "encode_referenced_pair": "examples",
    "encode_steering_pair": "examples",
    "frozen_copy": "reference",
    "join_reference": "examples",
    "score_reference": "reference",
    "train_policy": "policy",
}

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
    "encode_referenced_pair",
    "encode_steering_pair",
    "frozen_copy",
    "join_reference",
    "score_reference",
    "train_policy",
]

if TYPE_CHECKING:
    from windvane.training.examples import (
        EncodedPair,
        TrainingExample,
        encode_pair,
        encode_referenced_pair,
        encode_steering_pair,
        join_reference,
    )
    from windvane.training.policy import TrainingResult, train_policy
    from windvane.training.progress import MetricsFile, RichProgress
    from windvane.training.reference import adapter_off, frozen_copy, score_reference
    from windvane.training.settings import GuardSettings, LoraSettings, TrainingSettings
    from windvane.training.trainer import PreferenceTrainer, TrainerOptions


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'windvane.training' has no attribute {name!r}")
    return getattr(import_module(f"windvane.training.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
