"""Our losses against TRL's own code, on the same batch, models and log-probabilities."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.losses.samples import random_pairs
from windvane import losses
from windvane.losses import PairLogprobs, SequenceLogprobs

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

ROWS = [
    {"prompt": "What do cats do?", "chosen": " Purr.", "rejected": " They bark all day long, and at night as well."},
    {"prompt": "Two and two?", "chosen": " That would be four, I think.", "rejected": " Five"},
    {"prompt": "Say nothing.", "chosen": " .", "rejected": " No!"},
]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """TRL's DPO trainer around two random models."""
    folder: Path = tmp_path_factory.mktemp("trl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
        import trl

        args = trl.DPOConfig(
            output_dir=str(folder), use_cpu=True, per_device_train_batch_size=3, report_to="none", bf16=False,
            max_length=None, gradient_checkpointing=False, disable_dropout=True,
        )  # fmt: skip
        yield trl.DPOTrainer(
            model=tiny.model(seed=0),
            ref_model=tiny.model(seed=1),
            args=args,
            train_dataset=datasets.Dataset.from_list(ROWS),
            processing_class=tiny.tokenizer(),
        )


def plain_logprobs(model: torch.nn.Module, batch: dict[str, Tensor]) -> PairLogprobs:
    """Log-probabilities of TRL's batch by the definition: a full log-softmax, gathered and masked."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    mask = batch["completion_mask"][:, 1:]
    picked = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1) * mask
    sides = [
        SequenceLogprobs(total, tokens)
        for total, tokens in zip(picked.sum(1).chunk(2), mask.sum(1).chunk(2), strict=True)
    ]
    return PairLogprobs(*sides)


SMOOTHING = 0.2
BETA = 0.3
DPO_TRAINER_LOSSES = {
    "sigmoid": lambda policy, reference: losses.dpo_loss(policy, reference, beta=BETA),
    "hinge": lambda policy, reference: losses.slic_loss(policy, reference, beta=BETA),
    "ipo": lambda policy, reference: losses.ipo_loss(policy, reference, beta=BETA),
    "robust": lambda policy, reference: losses.robust_dpo_loss(policy, reference, beta=BETA, label_smoothing=SMOOTHING),
    "sppo_hard": lambda policy, reference: losses.sppo_loss(policy, reference, beta=BETA),
}


@pytest.mark.parametrize("loss_type", DPO_TRAINER_LOSSES)
def test_value_and_gradient_equal_those_of_the_dpo_trainer(trainer: Any, loss_type: str) -> None:
    trainer.loss_types, trainer.loss_weights = [loss_type], [1.0]
    trainer.beta, trainer.label_smoothing = BETA, SMOOTHING
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.zero_grad()
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    theirs.backward()
    expected = {name: parameter.grad.clone() for name, parameter in trainer.model.named_parameters()}

    trainer.model.zero_grad()
    with torch.no_grad():
        reference = plain_logprobs(trainer.ref_model, batch)
    ours = DPO_TRAINER_LOSSES[loss_type](plain_logprobs(trainer.model, batch), reference).mean()
    ours.backward()

    assert len(set(batch["completion_mask"].sum(1).tolist())) > 3  # unequal lengths, or ipo would prove nothing
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name], rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(scope="module")
def experimental() -> Any:
    """TRL's trainers of reference-free losses; their loss methods are called without a trainer around them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.cpo import CPOTrainer
        from trl.experimental.orpo import ORPOTrainer
    return SimpleNamespace(cpo=CPOTrainer.cpo_loss, orpo=ORPOTrainer.odds_ratio_loss)


def settings_of(**changes: object) -> SimpleNamespace:
    accelerator = SimpleNamespace(device=torch.device("cpu"))
    return SimpleNamespace(**{"alpha": 0.0, "label_smoothing": 0.0, "accelerator": accelerator, "beta": BETA} | changes)


def test_simpo(experimental: Any) -> None:
    policy = random_pairs(3)
    theirs, _, _ = experimental.cpo(
        settings_of(loss_type="simpo", simpo_gamma=0.7, beta=2.5), policy.chosen.mean, policy.rejected.mean
    )
    torch.testing.assert_close(losses.simpo_loss(policy, beta=2.5, gamma=0.7), theirs)


def test_cdpo_is_their_smoothed_sigmoid_on_log_ratios(experimental: Any) -> None:
    policy = random_pairs(3)
    reference = random_pairs(4, tokens=policy)
    theirs, _, _ = experimental.cpo(
        settings_of(loss_type="sigmoid", label_smoothing=SMOOTHING),
        policy.chosen.sum - reference.chosen.sum,
        policy.rejected.sum - reference.rejected.sum,
    )
    ours = losses.cdpo_loss(policy, reference, beta=BETA, label_smoothing=SMOOTHING)
    torch.testing.assert_close(ours, theirs)


def test_orpo(experimental: Any) -> None:
    policy = random_pairs(3)
    theirs, *_ = experimental.orpo(settings_of(), policy.chosen.mean, policy.rejected.mean)
    odds_term = losses.orpo_loss(policy, beta=BETA) - losses.chosen_nll(policy)
    torch.testing.assert_close(odds_term.float(), -theirs, rtol=1e-5, atol=1e-6)


def test_kto_pair_with_its_reference_points_at_zero_is_half_of_apo_zero(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        policy, reference = plain_logprobs(trainer.model, batch), plain_logprobs(trainer.ref_model, batch)
        # a reference that is likelier everywhere has negative mean log-ratios, and the points are at least 0
        likelier = PairLogprobs(*(SequenceLogprobs(torch.zeros_like(side.sum), side.tokens) for side in reference))
        ours = losses.kto_pair_loss(policy, likelier, beta=0.01).mean()
        monkeypatch.setattr(trainer, "loss_types", ["apo_zero"])
        monkeypatch.setattr(trainer, "beta", 0.01)
        monkeypatch.setattr(trainer, "precompute_ref_logps", True)
        given = {"ref_chosen_logps": likelier.chosen.sum, "ref_rejected_logps": likelier.rejected.sum}
        theirs = trainer.compute_loss(trainer.model, dict(batch) | given)
    torch.testing.assert_close(ours, theirs / 2)
