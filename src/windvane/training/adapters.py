"""LoRA adapters: put on, taken off, merged."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from windvane.errors import ConfigError
from windvane.training.settings import LoraSettings


def add_adapter(model: PreTrainedModel, settings: LoraSettings, *, seed: int) -> PeftModel:
    """Return `model` with a fresh adapter, which changes nothing yet: its second matrix is zero.

    Raises `ConfigError` for layers that the model has not got.
    """
    depth = model.config.get_text_config().num_hidden_layers
    if settings.layers is not None and (wrong := [layer for layer in settings.layers if not 0 <= layer < depth]):
        raise ConfigError(f"training.lora.layers names layer {wrong[0]}, but the model has the layers 0 to {depth - 1}")
    target: Any = settings.target_modules
    if target == "all-linear" and settings.layers is not None:
        target = _linear_names(model)  # peft takes layer numbers only together with names
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=target if isinstance(target, str) else list(target),
        layers_to_transform=None if settings.layers is None else list(settings.layers),
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():  # peft still reads a property by its old name
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            return get_peft_model(model, config)
    except ValueError as error:
        names = ", ".join(_linear_names(model))
        raise ConfigError(
            f"training.lora.target_modules {settings.target_modules!r} cannot be used with this model: {error}. "
            f"Its linear layers are: {names}"
        ) from error


def merge_adapter(model: PeftModel, folder: Path, base_name: str) -> PreTrainedModel:
    """Write the adapter to `folder` and return the model with the adapter merged into float32 weights."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_name
    model.save_pretrained(str(folder), save_embedding_layers=False)  # else peft looks for the base model on the hub
    merged = model.float().merge_and_unload()
    assert isinstance(merged, PreTrainedModel)
    return merged


def _linear_names(model: PreTrainedModel) -> list[str]:
    """Return the last parts of the names of all linear layers but the output head, each once."""
    linear = {name for name, module in model.base_model.named_modules() if isinstance(module, nn.Linear)}
    return sorted({name.rpartition(".")[2] for name in linear})
