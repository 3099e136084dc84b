"""Turning a GGUF file into an ordinary transformers folder."""

import contextlib
import io
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from windvane.engines.models import quiet_transformers

_CONFIG_TRACES = ("quantization_config", "_model_name_or_path")  # the latter is the name inside the GGUF file
_QUANTIZER_TRACES = ("hf_quantizer", "is_quantized", "quantization_method")


def write_as_folder(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file to `folder` in float32, with its tokenizer, as if it had never been quantized."""
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):  # it draws a bar past every switch
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        tokenizer = AutoTokenizer.from_pretrained(**source)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        _forget_quantization(model)
        config = model.config
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        config.bos_token_id = tokenizer.bos_token_id
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _forget_quantization(model: PreTrainedModel) -> None:
    """The loaded weights are plain floats; what says otherwise would be saved and keep the folder from loading."""
    traces = [(model.config, name) for name in _CONFIG_TRACES] + [(model, name) for name in _QUANTIZER_TRACES]
    for holder, name in traces:
        if name in vars(holder):
            delattr(holder, name)
    model.config.name_or_path = ""
