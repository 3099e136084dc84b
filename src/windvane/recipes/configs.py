"""Which configuration each command takes."""

from windvane.config import Settings
from windvane.recipes.audit import AuditConfig
from windvane.recipes.augment import AugmentConfig
from windvane.recipes.drpo_config import DrpoConfig
from windvane.recipes.evaluate import EvaluateConfig
from windvane.recipes.pairs import PairsConfig
from windvane.recipes.preference import TrainConfig
from windvane.recipes.select import SelectConfig
from windvane.recipes.sera_config import SeraConfig
from windvane.recipes.sso_config import SSOConfig


def config_classes() -> dict[str, type[Settings]]:
    """Return the class of each command's configuration, by the words after ``windvane``."""
    return {
        "sso": SSOConfig,
        "sera": SeraConfig,
        "drpo": DrpoConfig,
        "pairs": PairsConfig,
        "select": SelectConfig,
        "select --by margin": AuditConfig,
        "train": TrainConfig,
        "evaluate": EvaluateConfig,
        "queries augment": AugmentConfig,
    }
