"""Preference losses: one equation, one pure function, from log-probabilities to one loss per pair.

Each loss has its settings beside it; `make_objective` turns settings into an `Objective` for a trainer.
"""

from windvane.engines.sums import SequenceLogprobs
from windvane.losses.dpo import (
    CdpoSettings,
    DpoSettings,
    RobustDpoSettings,
    cdpo_loss,
    dpo_loss,
    robust_dpo_loss,
)
from windvane.losses.ipo import IpoSettings, ipo_loss
from windvane.losses.kto import KtoPairSettings, kto_pair_loss
from windvane.losses.logprobs import PairLoss, SteeringLogprobs, View, chosen_nll, with_nll
from windvane.losses.objective import LossSettings, Objective, make_objective
from windvane.losses.orpo import OrpoSettings, orpo_loss
from windvane.losses.simpo import SimpoSettings, simpo_loss
from windvane.losses.slic import SlicSettings, slic_loss
from windvane.losses.sppo import SppoSettings, sppo_loss
from windvane.losses.sso import (
    BaseLossSettings,
    SsoGeneratorSettings,
    SsoSettings,
    WeightScope,
    on_policy_weight,
    sso_generator_loss,
    sso_loss,
)
from windvane.selection.margins import PairLogprobs

__all__ = [
    "BaseLossSettings",
    "CdpoSettings",
    "DpoSettings",
    "IpoSettings",
    "KtoPairSettings",
    "LossSettings",
    "Objective",
    "OrpoSettings",
    "PairLogprobs",
    "PairLoss",
    "RobustDpoSettings",
    "SequenceLogprobs",
    "SimpoSettings",
    "SlicSettings",
    "SppoSettings",
    "SsoGeneratorSettings",
    "SsoSettings",
    "SteeringLogprobs",
    "View",
    "WeightScope",
    "cdpo_loss",
    "chosen_nll",
    "dpo_loss",
    "ipo_loss",
    "kto_pair_loss",
    "make_objective",
    "on_policy_weight",
    "orpo_loss",
    "robust_dpo_loss",
    "simpo_loss",
    "slic_loss",
    "sppo_loss",
    "sso_generator_loss",
    "sso_loss",
    "with_nll",
]
