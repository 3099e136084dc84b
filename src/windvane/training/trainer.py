"""The one trainer: preference pairs, any objective, shared-prefix rows."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from windvane.config import Settings
from windvane.engines.logprobs import choose_layout, evaluating, sequence_logprobs, unwrapped
from windvane.errors import ConfigError, DataError
from windvane.losses import LossSettings, Objective, PairLogprobs, View, make_objective
from windvane.training import checkpoints, guards
from windvane.training.batches import BatchPlan, PairBatches, Slot
from windvane.training.dropout import train_without_dropout
from windvane.training.examples import PairBatch, TrainingExample, check_examples, make_batch
from windvane.training.metrics import StepSums, batch_sums
from windvane.training.progress import RichProgress, step_history
from windvane.training.reference import Reference, adapter_off, frozen_copy, score_reference
from windvane.training.rows_in import as_examples
from windvane.training.settings import GuardSettings

logger = logging.getLogger(__name__)

ReferenceMode = Literal["scored", "frozen", "adapter_off"]

Inputs = dict[str, Any]
"""What transformers passes from the data loader to `compute_loss`: a dictionary, here of one `PairBatch`."""

BATCH = "batch"


@dataclass(frozen=True)
class TrainerOptions:
    """What `PreferenceTrainer` adds to ``TrainingArguments``."""

    layout: Literal["auto", "shared", "plain"] = "auto"
    """How rows are laid out; `auto` shares prompts wherever that is exact."""
    reference: ReferenceMode = "scored"
    """Where the reference's log-probabilities come from: the examples (scored at the start where they have none), a
    frozen copy of the model, or the model without its adapter."""
    starts_at_reference: bool = True
    """Whether policy and reference are the same before the first step; if so, that is checked."""
    guards: GuardSettings = field(default_factory=GuardSettings)


class PreferenceTrainer(Trainer):
    """A ``transformers.Trainer`` for preference pairs.

    >>> loss = losses.DpoSettings(beta=0.1)
    >>> trainer = PreferenceTrainer(
    ...     model, TrainingArguments("out"), train_dataset=pairs, processing_class=tokenizer, objective=loss
    ... )
    >>> trainer.train()

    `objective` is a loss by its settings, or an `Objective` of one's own. `train_dataset` and `eval_dataset` hold
    `TrainingExample` s, `OfflinePair` s (see `windvane.data.load_preferences`), or the rows of a data set in TRL's
    preference format; the latter two are tokenised with `processing_class`. A micro-batch is
    ``per_device_train_batch_size`` pairs, and the loss of an optimizer step is the mean over all its pairs, however
    they are spread over micro-batches and processes. Dropout is off, so that the policy equals its reference at the
    start. Full fine-tuning keeps its weights in float32; with ``bf16=True`` it computes in bfloat16.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        train_dataset: Iterable[Any],
        eval_dataset: Iterable[Any] | None = None,
        *,
        objective: Objective | LossSettings,
        processing_class: PreTrainedTokenizerBase | None = None,
        options: TrainerOptions | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.objective: Objective = make_objective(objective) if isinstance(objective, Settings) else objective
        self._policy = model
        self._tokenizer = processing_class
        self.options = options or TrainerOptions()
        examples = self._checked(train_dataset)
        held_out = [] if eval_dataset is None else self._checked(eval_dataset)
        _keep_weights_in_float32(model)
        args._n_gpu = min(args.n_gpu, 1)  # DataParallel cannot split rows; several GPUs go through torchrun
        super().__init__(
            model=model, args=args, train_dataset=_Examples(examples), processing_class=processing_class,
            eval_dataset=_Examples(held_out) if held_out else None,
            callbacks=[*(callbacks or []), _BeforeUpdate(self)],
        )  # fmt: skip
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(RichProgress())
        self._autocasts = self._take_autocast_over()
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the pairs of the whole step
        self.model_accepts_loss_kwargs = True  # the same, for versions that ask this instead
        self.pad_id = _pad_id(processing_class, model)
        self.layout = choose_layout(
            model, longest=max(example.longest for example in examples + held_out), wanted=self.options.layout
        )
        logger.info("%s rows: %s", self.layout.name, self.layout.reason)
        self._step, self._logged = StepSums(), StepSums()
        self._last_log = time.perf_counter()
        self._reference = self._make_reference()
        self._examples = _Examples(self._with_reference(examples))
        self._held_out = self._with_reference(held_out)

    # -- data ----------------------------------------------------------------------------------------------------------

    def _checked(self, rows: Iterable[Any]) -> list[TrainingExample]:
        return check_examples(as_examples(rows, self._tokenizer), self.objective.views)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process's micro-batches; already sharded, so accelerate has nothing to prepare."""
        plan = BatchPlan(
            micro_batch=self.args.per_device_train_batch_size,
            accumulation=self.args.gradient_accumulation_steps,
            processes=self.args.world_size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )
        batches = PairBatches(
            [example.tokens for example in self._examples.examples],
            plan,
            process=self.args.process_index,
            epoch=lambda: int(self.state.epoch or 0),
        )
        return DataLoader(self._examples, batch_sampler=batches, collate_fn=self._collate)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Inputs], num_batches: int, device: torch.device
    ) -> tuple[list[Inputs], Tensor]:
        """Return the micro-batches of an optimizer step, and the count of its pairs over all processes."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        pairs = torch.stack([inputs[BATCH].weight.sum() for inputs in batches]).sum().to(device)
        return batches, self.accelerator.reduce(pairs, reduction="sum")

    def _collate(self, items: Sequence[tuple[TrainingExample, float]]) -> Inputs:
        examples, weights = zip(*items, strict=True)
        batch = make_batch(examples, weights, views=self.objective.views, layout=self.layout, pad_id=self.pad_id)
        return {BATCH: batch}

    def floating_point_ops(self, inputs: Inputs) -> int:
        """Return 0: the count of transformers knows one row for each example."""
        return 0

    # -- number format -------------------------------------------------------------------------------------------------

    def _take_autocast_over(self) -> bool:
        """Return whether losses are computed in bfloat16 by `autocast_smart_context_manager`.

        Accelerate's way is to wrap the prepared model alone, and to turn its logits into float32, all of them. Ours
        covers the reference and the evaluation as well, which have to be in the policy's number format.
        """
        ours = self.accelerator.native_amp and self.args.bf16 and not self.is_deepspeed_enabled
        if ours:
            self.accelerator.native_amp = False
        return ours

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """Return the context that losses are computed in."""
        if not self._autocasts:
            return nullcontext()
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16, cache_enabled=cache_enabled)

    # -- loss ----------------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return this micro-batch's part of the step's mean loss: ``Σ losses / pairs``.

        `num_items_in_batch` is the count of the step's pairs over all processes; as the gradients of processes are
        averaged, each process's sum is multiplied by their number.
        """
        batch: PairBatch = inputs[BATCH].to(self.args.device)
        train_without_dropout(model)
        policy = batch.by_view(sequence_logprobs(model, batch.rows))
        reference = self._reference_of(batch)
        losses = self.objective(policy, reference)  # [pairs]
        self._count(batch, policy, reference, losses.detach())
        pairs = batch.weight.sum() if num_items_in_batch is None else num_items_in_batch
        loss = (losses * batch.weight).sum() / pairs * self.args.world_size
        return (loss, policy) if return_outputs else loss

    def _reference_of(self, batch: PairBatch) -> dict[View, PairLogprobs] | None:
        if self._reference is None:
            return batch.reference_by_view()
        return batch.by_view(self._reference(batch.rows))

    def _count(
        self,
        batch: PairBatch,
        policy: Mapping[View, PairLogprobs],
        reference: Mapping[View, PairLogprobs] | None,
        losses: Tensor,
    ) -> None:
        at_start = self.state.global_step == 0 and reference is not None
        sums = batch_sums(
            policy,
            reference,
            losses=losses,
            reference_losses=self.objective(reference, reference) if at_start and reference is not None else None,
            weight=batch.weight,
            tokens=batch.rows.input_ids.numel(),
        )
        self._step = self._step.plus(sums)

    # -- reference -----------------------------------------------------------------------------------------------------

    def _make_reference(self) -> Reference | None:
        if self.options.reference == "scored":
            return None
        return frozen_copy(self._policy) if self.options.reference == "frozen" else adapter_off(self._policy)

    def _with_reference(self, examples: list[TrainingExample]) -> list[TrainingExample]:
        """Score the examples with the model as it is now, unless they bring their reference along or need none."""
        if not self.objective.needs_reference or self._reference is not None:
            return examples
        missing = [example for example in examples if example.reference is None]
        if not missing:
            return examples
        if len(missing) < len(examples):
            raise DataError(
                f"{len(missing)} of {len(examples)} examples have no reference log-probabilities, {missing[0].id!r} "
                "first. Score them all with the same model, or none: then the trainer does it."
            )
        mine = examples[self.args.process_index :: self.args.world_size]
        with self.compute_loss_context_manager():
            scored = score_reference(
                self._policy, mine, views=self.objective.views, layout=self.layout, pad_id=self.pad_id
            )
        found = {example.id: example for example in gather_object(scored)}
        return [found[example.id] for example in examples]

    # -- guards and metrics --------------------------------------------------------------------------------------------

    def before_update(self) -> None:
        """Judge the step before the optimizer takes it; the same on every process. Raises `TrainingDiverged`."""
        totals = torch.tensor(self._step, dtype=torch.float64 if self.args.device.type != "mps" else torch.float32)
        step = StepSums(*self.accelerator.reduce(totals.to(self.args.device), reduction="sum").tolist())
        self._step = StepSums()
        self._logged = self._logged.plus(step)
        number, loss = self.state.global_step, step.loss / step.pairs
        guards.check_step(number + 1, {"loss": loss, "learning_rate": self.args.learning_rate})
        tolerance = self.options.guards.step0_tolerance
        if number == 0 and self.options.starts_at_reference and step.compared and tolerance is not None:
            guards.check_start(step.distance / step.compared, loss, step.reference_loss / step.compared, tolerance)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step's metrics with those of the pairs, then let the guards see them."""
        step = "loss" in logs
        if step:
            now = time.perf_counter()
            logs |= self._logged.means()
            logs["tokens_per_second"] = self._logged.tokens / max(now - self._last_log, 1e-9)
            self._logged, self._last_log = StepSums(), now
        super().log(logs, start_time)
        if step:
            guards.check_step(self.state.global_step, logs)
            guards.check_fall(step_history(self.state), self.options.guards)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return mean loss, margin and accuracy over held-out pairs, each weighted the same.

        Without `eval_dataset` they are those that the trainer was made with, whose reference is the policy of then.
        Pairs that are given here without a reference are scored with the policy as it is now.
        """
        examples = self._held_out if eval_dataset is None else self._with_reference(self._checked(eval_dataset))
        if not examples:
            raise ConfigError("evaluate() needs eval_dataset, here or in the trainer: pairs like those to train on")
        kept, self._step = self._step, StepSums()
        size = self.args.per_device_eval_batch_size
        with torch.no_grad(), evaluating(self._policy), self.compute_loss_context_manager():
            for start in range(0, len(examples), size):
                part = examples[start : start + size]
                self.compute_loss(self._policy, self._collate([(example, 1.0) for example in part]))
        sums, self._step = self._step, kept
        means = {"loss": sums.loss / sums.pairs, **sums.means()}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.seal(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")


class _Examples(Dataset[tuple[TrainingExample, float]]):
    """Examples by slot: the sampler says which pair, and what it counts."""

    def __init__(self, examples: list[TrainingExample]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, slot: Slot) -> tuple[TrainingExample, float]:
        return self.examples[slot.pair], slot.weight


class _BeforeUpdate(TrainerCallback):
    """Calls the trainer back between the last backward pass of a step and the optimizer."""

    def __init__(self, trainer: PreferenceTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._trainer.before_update()


def _keep_weights_in_float32(model: nn.Module) -> None:
    """Full fine-tuning updates float32 weights: a 16-bit weight would swallow an update as small as these are."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if all(parameter.dtype == torch.float32 for parameter in trained):
        return
    if hasattr(model, "get_base_model"):  # the weights below an adapter are not trained, and may be quantized
        for parameter in trained:
            parameter.data = parameter.data.float()
        return
    logger.info("weights are trained in float32; pass bf16=True to compute in bfloat16")
    model.float()


def _pad_id(tokenizer: PreTrainedTokenizerBase | None, model: nn.Module) -> int:
    """Any id that the model can embed will do: masks, never ids, tell padding from text."""
    known = getattr(tokenizer, "pad_token_id", None)
    return int(known if known is not None else getattr(unwrapped(model).config, "pad_token_id", None) or 0)
