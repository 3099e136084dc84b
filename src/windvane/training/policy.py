"""Train a policy from start to saved folder, resumable at any moment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as transformers_logging

from windvane.engines.hardware import multiplies_bfloat16_fast
from windvane.engines.logprobs import Layout
from windvane.engines.models import LoadedModel
from windvane.errors import ConfigError, DataError
from windvane.losses import Objective
from windvane.seeds import derive_seed
from windvane.training import checkpoints as saved
from windvane.training.adapters import add_adapter, merge_adapter
from windvane.training.examples import TrainingExample, check_examples
from windvane.training.guards import check_data
from windvane.training.progress import step_history
from windvane.training.settings import TrainingSettings
from windvane.training.trainer import PreferenceTrainer, TrainerOptions

_TIMING = ("tokens_per_second",)
"""Logged numbers that differ between two runs of the same thing."""


class TrainingResult(NamedTuple):
    """What a training run did; the same for a resumed and an uninterrupted run."""

    steps: int
    """Optimizer steps."""
    final_loss: float
    """Mean loss over the pairs of the last step."""
    history: tuple[dict[str, float], ...]
    """The metrics of each step."""
    layout: Layout
    """How rows were laid out, and why."""


def train_policy(
    loaded: LoadedModel,
    examples: Sequence[TrainingExample],
    objective: Objective,
    settings: TrainingSettings,
    *,
    output: Path,
    checkpoints: Path,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingResult:
    """Train `loaded` on `examples` and write the policy to `output`, an ordinary transformers folder with tokenizer.

    The model in memory is changed. With LoRA the folder holds the merged policy, and ``adapter/`` in it the adapter. A
    complete checkpoint in `checkpoints` is resumed from, and the result is that of a run without interruption, bit for
    bit on the same machine; half-written ones are removed. Where the reference is not the policy that training starts
    from, set ``guards.step0_tolerance`` to None. Under torchrun or ``accelerate launch``, every process calls this.

    Raises `ConfigError` and `DataError` before anything is computed, `TrainingDiverged` where a guard stops the run.
    """
    if settings.reference != "scored" and not objective.needs_reference:
        raise ConfigError(
            f"training.reference is {settings.reference}, but this loss reads no reference: leave it at scored, which "
            "then scores nothing"
        )
    given = check_examples(list(examples), objective.views)
    _check_lengths(given, loaded, settings.max_length)
    check_data(given, settings.guards, end_ids=loaded.stop_ids)
    arguments = training_arguments(settings, pairs=len(given), folder=checkpoints, seed=seed, device=loaded.device)
    use_cache = loaded.model.config.use_cache if hasattr(loaded.model.config, "use_cache") else None
    model: Any = loaded.model
    if settings.lora is not None and not arguments.bf16:
        nn.Module.float(model)  # the weights below the adapter, too, are computed with in the precision asked for
    if settings.gradient_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # transformers renamed it; both names are in use
    trainer = PreferenceTrainer(
        add_adapter(model, settings.lora, seed=arguments.seed) if settings.lora else model,
        arguments,
        given,
        objective=objective,
        processing_class=loaded.tokenizer,
        options=TrainerOptions(layout=settings.layout, reference=settings.reference, guards=settings.guards),
        callbacks=[*callbacks, _KeepLastCheckpoint(checkpoints)],
    )
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        check_sharded(settings)
    trainer.remove_callback(PrinterCallback)
    _train(trainer, checkpoints, callbacks)
    if use_cache is not None:
        loaded.model.config.use_cache = use_cache  # the trainer turned it off, and a policy is there to generate
    _save(trainer, loaded, output)
    history = tuple(
        {name: value for name, value in entry.items() if name not in _TIMING} for entry in step_history(trainer.state)
    )
    return TrainingResult(trainer.state.global_step, history[-1]["loss"], history, trainer.layout)


def training_arguments(
    settings: TrainingSettings, *, pairs: int, folder: Path, seed: int, device: torch.device
) -> TrainingArguments:
    """Return the arguments of transformers that `settings` mean for `pairs` pairs.

    Raises `ConfigError` where ``pairs_per_step`` cannot be made of micro-batches on all processes.
    """
    on_cpu = device.type == "cpu"
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and multiplies_bfloat16_fast(device))
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=_warmup_steps(settings, pairs),
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=bf16,
        save_strategy="no" if settings.save_every is None else "steps",
        save_steps=settings.save_every or 500,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=list(settings.report_to) or "none",
        disable_tqdm=True,
        use_cpu=on_cpu,
        seed=derive_seed(seed, "training") % 2**32,
        label_names=[],
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
    )
    arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps = _split_step(
        settings, processes=arguments.world_size
    )
    return arguments


def _warmup_steps(settings: TrainingSettings, pairs: int) -> int:
    """Return the steps of the warm-up, which begins at 0: a run of one step has none, or it would train nothing."""
    steps = settings.epochs * math.ceil(pairs / settings.pairs_per_step)
    return min(math.ceil(settings.warmup_ratio * steps), steps - 1)


def _split_step(settings: TrainingSettings, *, processes: int) -> tuple[int, int]:
    """Return the micro-batch and the accumulation that make up ``pairs_per_step`` exactly.

    The largest micro-batch up to the one that was set: which one it is changes speed, not results.
    """
    share, rest = divmod(settings.pairs_per_step, processes)
    if rest or not share:
        raise ConfigError(
            f"training.pairs_per_step is {settings.pairs_per_step}, which {processes} processes cannot share evenly: "
            f"set it to a multiple of {processes}"
        )
    micro = max(size for size in range(1, min(settings.micro_batch, share) + 1) if share % size == 0)
    return micro, share // micro


def _check_lengths(examples: Sequence[TrainingExample], loaded: LoadedModel, max_length: int | None) -> None:
    """Refuse pairs that are longer than asked for, or than the model has positions."""
    limits = {"training.max_length": max_length, f"the positions of {loaded.name}": loaded.context_length}
    for name, limit in limits.items():
        long = [example for example in examples if limit is not None and example.longest > limit]
        if long:
            worst = max(long, key=lambda example: example.longest)
            raise DataError(
                f"{len(long)} of {len(examples)} pairs are longer than {name} ({limit} tokens); the longest, "
                f"{worst.id!r}, has {worst.longest}. Nothing is cut silently: drop these pairs, or shorten them."
            )


def check_sharded(settings: TrainingSettings) -> None:
    """Refuse what weights spread over processes (FSDP, DeepSpeed) rule out. Raises `ConfigError`."""
    if settings.lora is not None:
        raise ConfigError(
            "training.lora is set, but an adapter cannot be merged into weights that FSDP or DeepSpeed spread over "
            "processes: launch without them, so that each process holds the model, or train all weights"
        )
    if settings.reference == "frozen":
        raise ConfigError(
            "training.reference is frozen, but FSDP or DeepSpeed spread the policy's weights over processes and not "
            "those of a copy: set it to scored, which needs no copy"
        )


def _train(trainer: PreferenceTrainer, folder: Path, callbacks: Sequence[TrainerCallback]) -> None:
    resume = saved.last_complete(folder)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        saved.clean(folder, keep=resume)
    trainer.accelerator.wait_for_everyone()
    try:
        with _without_shard_bars():
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    finally:
        for callback in callbacks:
            if close := getattr(callback, "close", None):
                close()


def _save(trainer: PreferenceTrainer, loaded: LoadedModel, output: Path) -> None:
    """Write the policy, in float32: rounding its weights to 16 bits would undo most of a short run's updates."""
    trainer.accelerator.wait_for_everyone()
    with _without_shard_bars():
        _write(trainer, loaded, output)
    trainer.accelerator.wait_for_everyone()


def _write(trainer: PreferenceTrainer, loaded: LoadedModel, output: Path) -> None:
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        if trainer.is_fsdp_enabled:  # with any other kind, `save_model` writes no weights
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(str(output))
        (output / "training_args.bin").unlink(missing_ok=True)
    elif trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        policy = model if isinstance(model, PreTrainedModel) else merge_adapter(model, output / "adapter", loaded.name)
        policy.save_pretrained(output)
        loaded.tokenizer.save_pretrained(output)


@contextmanager
def _without_shard_bars() -> Iterator[None]:
    """Keep transformers from drawing a progress bar for every file that it writes."""
    bars: Any = transformers_logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


class _KeepLastCheckpoint(TrainerCallback):
    """Removes older checkpoints once a newer one is complete."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if state.is_world_process_zero:
            saved.clean(self._folder, keep=saved.last_complete(self._folder))
