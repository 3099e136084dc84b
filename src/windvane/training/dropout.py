"""Training without dropout."""

from __future__ import annotations

from torch import nn


def train_without_dropout(model: nn.Module) -> None:
    """Put a model into training with all its own dropout off, so that it equals its reference before the first step.

    Evaluation mode is what turns every kind of dropout off, the functional kinds inside attention included. Two kinds
    of modules stay in training mode: layers that compute activations again in the backward pass, which they do in that
    mode alone, and the dropout of adapters, which the user asks for and which changes nothing while an adapter is new.
    """
    model.eval()
    for name, module in model.named_modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
            _clear_rates(module)
        elif "lora_dropout" in name.split("."):
            module.training = True


def _clear_rates(module: nn.Module) -> None:
    """Set the dropout rates that a layer keeps as plain numbers to 0."""
    for name, value in vars(module).items():
        if "dropout" in name and isinstance(value, float):
            setattr(module, name, 0.0)
