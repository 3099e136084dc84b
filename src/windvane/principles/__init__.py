"""Principles: what makes x⁺ and x⁻ of a query x.

For each query some features are chosen; each has a good and a bad principle, in the bank's words, the user's, or a
model's. `choose_principles` returns the two system messages for each query.
"""

from windvane.principles.features import Bank, Feature, FeatureFile, feature_bank, read_features
from windvane.principles.message import Side, steering_text, system_message
from windvane.principles.opposite import write_opposite
from windvane.principles.settings import (
    BankPrinciples,
    GeneratedPrinciples,
    PrincipleSettings,
    PromptPrinciples,
    UserPrinciples,
)
from windvane.principles.stage import choose_principles, features_on_offer

__all__ = [
    "Bank",
    "BankPrinciples",
    "Feature",
    "FeatureFile",
    "GeneratedPrinciples",
    "PrincipleSettings",
    "PromptPrinciples",
    "Side",
    "UserPrinciples",
    "choose_principles",
    "feature_bank",
    "features_on_offer",
    "read_features",
    "steering_text",
    "system_message",
    "write_opposite",
]
