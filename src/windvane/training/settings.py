"""What can be set about a training run."""

from importlib.util import find_spec
from typing import Literal

from pydantic import Field, field_validator

from windvane.config import Settings

TRACKERS = (
    "clearml", "codecarbon", "comet_ml", "dvclive", "mlflow", "neptune", "swanlab", "tensorboard", "trackio", "wandb",
)  # fmt: skip
"""Trackers by the name that transformers and Python's import both have for them."""


class LoraSettings(Settings):
    """Low-rank adapters: only they are trained, the model's own weights stay."""

    rank: int = Field(default=16, ge=1)
    """Rank of each update matrix; the count of trained weights grows with it."""
    alpha: float = Field(default=32.0, gt=0)
    """An update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped while training; all other dropout of the model is always off."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter; `all-linear` is every linear layer but the output head."""
    layers: tuple[int, ...] | None = None
    """Numbers of the decoder layers that get an adapter; all of them if null."""


class GuardSettings(Settings):
    """What stops a training run before it does harm. Every threshold may be null, which turns that guard off."""

    step0_tolerance: float | None = Field(default=0.02, gt=0)
    """Largest mean difference between policy and reference before the first step, in nats per token.

    They are the same model then. A 16-bit model differs from its float32 self by about a tenth of the default.
    """
    max_fall: float | None = Field(default=1.0, gt=0)
    """Stop when the chosen AND the rejected responses have both become less likely than under the reference by more.

    Nats per token, mean over the last `window` steps: the probability has gone to answers that nobody asked for.
    """
    window: int = Field(default=4, ge=1)
    """Optimizer steps that `max_fall` looks at together; one step alone is too noisy to judge."""
    max_length_ratio: float | None = Field(default=20.0, gt=1)
    """Refuse pairs whose chosen responses are on average this many times longer (or shorter) than the rejected ones.

    With such pairs, length is all that is learned.
    """
    max_cut_share: float | None = Field(default=0.9, gt=0, le=1)
    """Refuse pairs of whose chosen responses a larger share lacks its end: the model would never learn to stop."""


class TrainingSettings(Settings):
    """How a policy is trained on preference pairs."""

    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate of AdamW; adapters want one about a hundred times larger."""
    pairs_per_step: int = Field(default=32, ge=1)
    """Pairs in one optimizer step, over all processes and micro-batches; the loss is the mean over exactly these."""
    micro_batch: int = Field(default=4, ge=1)
    """Most pairs in one forward pass of one process; memory and speed depend on it, the result does not."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the pairs."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the optimizer steps in which the learning rate climbs to its peak."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up: to 0, or not at all."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Memory of the gradient's mean."""
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """Memory of the gradient's square; short runs want a shorter one than the usual 0.999."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's weight decay, per unit of learning rate; biases and norms have none."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients of a step are scaled down to this norm, if theirs is larger."""
    reference: Literal["scored", "frozen", "adapter_off"] = "scored"
    """Where the reference's log-probabilities come from.

    `scored`: computed once, before the first step. `frozen`: a second, frozen copy of the model runs along.
    `adapter_off`: the model itself with its LoRA adapter switched off runs along.
    """
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of all weights."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the computation; weights and optimizer always stay in float32.

    bfloat16 weights have 8 bits of precision, and would swallow updates as small as preference training makes. `auto`
    computes in bfloat16 where the machine is fast at it.
    """
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: about a third slower, much less memory."""
    save_every: int | None = Field(default=50, ge=1)
    """Optimizer steps between checkpoints to resume from; null writes none."""
    layout: Literal["auto", "shared", "plain"] = "auto"
    """`shared` computes a prompt once for all its responses, `plain` repeats it; `auto` shares where that is exact."""
    max_length: int | None = Field(default=None, ge=2)
    """Most tokens in a prompt and its response together; a pair with a longer one is an error, never cut silently."""
    guards: GuardSettings = GuardSettings()
    """What stops a run."""
    report_to: tuple[str, ...] = ()
    """Trackers that transformers knows, such as `wandb` and `tensorboard`."""

    @field_validator("report_to")
    @classmethod
    def _trackers_are_installed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in TRACKERS:
                raise ValueError(f"{name!r} is no tracker that transformers knows; it is one of {', '.join(TRACKERS)}")
            if find_spec(name) is None:
                raise ValueError(f"{name!r} is not installed: pip install {name}, or leave it out")
        return names

    def away_from_reference(self) -> "TrainingSettings":
        """Return these settings for a policy that does not start at its reference: without the step-0 check."""
        return self.model_copy(update={"guards": self.guards.model_copy(update={"step0_tolerance": None})})
