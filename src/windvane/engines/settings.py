"""What a user can set about the model that runs in this process. Imports no torch."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from windvane.config import Settings

DeviceSetting = Literal["auto", "cpu", "cuda", "mps"]
DtypeSetting = Literal["auto", "float32", "bfloat16", "float16"]


class EngineSettings(Settings):
    """How a local model is loaded and in what portions it works."""

    device: DeviceSetting = "auto"
    """Where the model runs; `auto` takes CUDA, then MPS, then the CPU."""
    dtype: DtypeSetting = "auto"
    """Number format of the weights; `auto` takes bfloat16 where the device multiplies it fast and float32 elsewhere."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention implementation of transformers; `auto` leaves the choice to it."""
    batch_rows: int = Field(default=64, ge=1)
    """Most sequences that are generated together; results do not depend on it, speed and memory do."""
    batch_tokens: int = Field(default=32768, ge=1)
    """Most tokens, padding and room for the response included, that one batch holds: bounds the key-value cache."""
    score_tokens: int = Field(default=2048, ge=1)
    """Most tokens, padding included, in one forward pass of scoring, which holds their logits; a longer query still
    runs, alone."""
    chat_template: str | None = None
    """For a model without a chat template (or in place of its own): a jinja file, or `plain` for the built-in one."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model: only for a model whose code you have read."""

    @property
    def template_file(self) -> Path | None:
        """The jinja file that `chat_template` names, if it names one."""
        return None if self.chat_template in (None, "plain") else Path(str(self.chat_template)).expanduser()
