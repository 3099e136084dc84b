"""Windvane aligns language models with no human labels.

>>> from windvane import SSOConfig, run_sso          # a whole method: queries and principles in, an aligned model out
>>> from windvane import PreferenceTrainer, losses   # its parts

Names are imported when they are first used, so ``import windvane`` is quick and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "SSOConfig": "windvane.recipes.sso_config",
    "SSOResult": "windvane.recipes.sso",
    "run_sso": "windvane.recipes.sso",
    "SeraConfig": "windvane.recipes.sera_config",
    "SeraResult": "windvane.recipes.sera",
    "run_sera": "windvane.recipes.sera",
    "AuditConfig": "windvane.recipes.audit",
    "run_audit": "windvane.recipes.audit",
    "DrpoConfig": "windvane.recipes.drpo_config",
    "DrpoResult": "windvane.recipes.drpo",
    "run_drpo": "windvane.recipes.drpo",
    "PairsConfig": "windvane.recipes.pairs",
    "run_pairs": "windvane.recipes.pairs",
    "TrainConfig": "windvane.recipes.preference",
    "run_train": "windvane.recipes.preference",
    "PreferenceTrainer": "windvane.training",
    "LocalEngine": "windvane.engines.local",
    "load_model": "windvane.engines.models",
    "losses": "windvane.losses",
    "selection": "windvane.selection",
}
__all__ = [
    "AuditConfig",
    "DrpoConfig",
    "DrpoResult",
    "LocalEngine",
    "PairsConfig",
    "PreferenceTrainer",
    "SSOConfig",
    "SSOResult",
    "SeraConfig",
    "SeraResult",
    "TrainConfig",
    "__version__",
    "load_model",
    "losses",
    "run_audit",
    "run_drpo",
    "run_pairs",
    "run_sera",
    "run_sso",
    "run_train",
    "selection",
]

if TYPE_CHECKING:
    from windvane import losses, selection
    from windvane.engines.local import LocalEngine
    from windvane.engines.models import load_model
    from windvane.recipes.audit import AuditConfig, run_audit
    from windvane.recipes.drpo import DrpoResult, run_drpo
    from windvane.recipes.drpo_config import DrpoConfig
    from windvane.recipes.pairs import PairsConfig, run_pairs
    from windvane.recipes.preference import TrainConfig, run_train
    from windvane.recipes.sera import SeraResult, run_sera
    from windvane.recipes.sera_config import SeraConfig
    from windvane.recipes.sso import SSOResult, run_sso
    from windvane.recipes.sso_config import SSOConfig
    from windvane.training import PreferenceTrainer


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'windvane' has no attribute {name!r}")
    module = import_module(home)
    return module if home == f"windvane.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
