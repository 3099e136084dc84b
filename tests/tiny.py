"""Tiny random models and a byte-level tokenizer: everything the tests need, made on the spot, no network."""

import functools
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>", "<s>"]


def tokenizer(*, chat_template: str | None = CHATML, pad_token: str = "<pad>") -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: 256 bytes and five special tokens, nothing to download."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate([*SPECIAL, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        bos_token="<s>",
        pad_token=pad_token,
        additional_special_tokens=["<|im_start|>", "<|endoftext|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template
    return fast


VOCAB = len(SPECIAL) + 256
_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "pad_token_id": 3,
    "bos_token_id": 4,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "qwen3": {},
    "gemma2": {
        "final_logit_softcapping": 5.0,
        "attn_logit_softcapping": 20.0,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 8,
    },
    "granite": {"logits_scaling": 3.0},
    "gpt_neox": {},
    "mamba2": {},
}


def model(family: str = "llama", *, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random two-layer model of a family, float32, in eval mode."""
    if family == "gpt_neox":
        options = {key: value for key, value in _COMMON.items() if key not in ("num_key_value_heads", "head_dim")}
    elif family == "mamba2":
        shared = ("vocab_size", "hidden_size", "num_hidden_layers", "pad_token_id", "bos_token_id", "eos_token_id")
        options = {
            **{key: _COMMON[key] for key in shared},
            "num_heads": 8, "head_dim": 8, "state_size": 16, "n_groups": 1, "chunk_size": 16,
        }  # fmt: skip
    else:
        options = dict(_COMMON)
    config = transformers.AutoConfig.for_model(family, **{**options, **FAMILIES[family], **changes})
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@functools.cache
def saved(folder: Path, family: str = "llama") -> Path:
    """Write a tiny model and its tokenizer to `folder`, once, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
