"""From settings to an objective: which views of a pair it needs, and one loss per pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

from pydantic import Field

from windvane.losses.logprobs import PairLoss, SteeringLogprobs, View, with_nll
from windvane.losses.orpo import OrpoSettings
from windvane.losses.sso import (
    AnyBaseLoss,
    BaseLossSettings,
    SsoGeneratorSettings,
    SsoSettings,
    sso_generator_loss,
    sso_loss,
)
from windvane.selection.margins import PairLogprobs

if TYPE_CHECKING:
    from torch import Tensor

LossSettings = Annotated[AnyBaseLoss | SsoSettings | SsoGeneratorSettings, Field(discriminator="type")]
"""Any loss that a policy can be trained with, told apart by its `type`."""


class Objective(Protocol):
    """What a policy is trained on: one loss per pair, from the log-probabilities of the views that it names."""

    @property
    def views(self) -> tuple[View, ...]:
        """The views that must be there in `policy` and `reference`; each costs a forward and a backward pass."""

    @property
    def needs_reference(self) -> bool:
        """Whether the reference's log-probabilities must be given."""

    def __call__(
        self, policy: Mapping[View, PairLogprobs], reference: Mapping[View, PairLogprobs] | None
    ) -> Tensor:  # [pairs]
        """Return one loss per pair, differentiable in the policy's log-probabilities.

        The value that training starts from, where policy and reference are the same model, is
        ``objective(reference, reference)``. Raises ValueError where a reference is needed and None is given, and
        KeyError where a view is missing.
        """


@dataclass(frozen=True)
class PairObjective:
    """A base loss on the plain view."""

    loss: PairLoss
    needs_reference: bool
    views: tuple[View, ...] = ("plain",)

    def __call__(self, policy: Mapping[View, PairLogprobs], reference: Mapping[View, PairLogprobs] | None) -> Tensor:
        """Return ``L(x; y⁺≻y⁻)``, [pairs]."""
        given = _needed(reference, self.needs_reference)
        return self.loss(policy["plain"], None if given is None else given["plain"])


@dataclass(frozen=True)
class SteeringObjective:
    """SSO, version 1, on all three views."""

    loss: partial[Tensor]
    """`sso_loss` with its parameters."""
    needs_reference: bool
    views: tuple[View, ...] = ("plain", "good", "bad")

    def __call__(self, policy: Mapping[View, PairLogprobs], reference: Mapping[View, PairLogprobs] | None) -> Tensor:
        """Return `sso_loss`, [pairs]."""
        given = _needed(reference, self.needs_reference)
        return self.loss(_steering(policy), None if given is None else _steering(given))


class GuidedPair(NamedTuple):
    """The two views under a principle, where the plain one is not computed."""

    good: PairLogprobs
    """chosen y⁺, rejected y⁻, given x⁺"""
    bad: PairLogprobs
    """chosen yᵒ, rejected y⁺, given x⁻"""


@dataclass(frozen=True)
class GeneratorObjective:
    """SSO, version 2: the data generator's loss on the two views under a principle."""

    loss: partial[Tensor]
    """`sso_generator_loss` with its parameters."""
    needs_reference: bool
    views: tuple[View, ...] = ("good", "bad")

    def __call__(self, policy: Mapping[View, PairLogprobs], reference: Mapping[View, PairLogprobs] | None) -> Tensor:
        """Return `sso_generator_loss`, [pairs]."""
        given = _needed(reference, self.needs_reference)
        return self.loss(_guided(policy), None if given is None else _guided(given))


def make_objective(settings: LossSettings) -> Objective:
    """Return the objective that `settings` describe."""
    if isinstance(settings, SsoSettings):
        if settings.steering_weight == 0 and settings.weight_scope != "all":
            return _pair_objective(settings.base)  # W·G is 0: two views are spared
        loss = partial(
            sso_loss,
            base=_pair_loss(settings.base),
            steering_weight=settings.steering_weight,
            alpha=settings.alpha,
            weight_scope=settings.weight_scope,
            detach_weight=settings.detach_weight,
        )
        return SteeringObjective(loss, settings.base.needs_reference)
    if isinstance(settings, SsoGeneratorSettings):
        generator = partial(sso_generator_loss, base=_pair_loss(settings.base), nll_weight=settings.nll_weight)
        return GeneratorObjective(generator, settings.base.needs_reference)
    return _pair_objective(settings)


def _pair_objective(settings: BaseLossSettings) -> PairObjective:
    return PairObjective(_pair_loss(settings), settings.needs_reference)


def _pair_loss(settings: BaseLossSettings) -> PairLoss:
    return settings.loss if isinstance(settings, OrpoSettings) else with_nll(settings.loss, settings.nll_weight)


def _needed(reference: Mapping[View, PairLogprobs] | None, needs_reference: bool) -> Mapping[View, PairLogprobs] | None:
    """Return the reference where the loss reads it, else None, so that a loss without one never depends on one."""
    if not needs_reference:
        return None
    if reference is None:
        raise ValueError(
            "this loss compares the policy with a reference, and none was given: pass its log-probabilities"
        )
    return reference


def _steering(views: Mapping[View, PairLogprobs]) -> SteeringLogprobs:
    return SteeringLogprobs(plain=views["plain"], good=views["good"], bad=views["bad"])


def _guided(views: Mapping[View, PairLogprobs]) -> GuidedPair:
    return GuidedPair(good=views["good"], bad=views["bad"])
