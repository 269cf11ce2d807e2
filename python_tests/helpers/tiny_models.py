"""Tiny random models of many families in folders of their own, with one tokenizer, for tests of serving."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from eft_ext.hf.checkpoint.pack import pack
from eft_ext.methods import MixingMethod

WORDS = 200  # tokens; models may have more columns
# Beside these a family has its own defaults. vLLM's attention on CPU knows head sizes from 32.
_SHAPE = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
    max_position_embeddings=256,
    initializer_range=0.3,
    bos_token_id=1,
    eos_token_id=0,
    pad_token_id=0,
    vocab_size=WORDS,
)
WIDE = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}
# Pages of the cache of 3 and 2 heads do not divide one another.
THREE = {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 3}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 64},
    **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
# Three models each: a family, and what differs from the above.
TRIOS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "windows": [
        ("llama", {**WIDE, "rope_theta": 5e5, "vocab_size": 224, "tie_word_embeddings": True}),
        ("mistral", {"sliding_window": 16, "vocab_size": 208, "num_key_value_heads": 2}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 0}),
    ],
    "gemmas": [
        ("gemma2", {**WIDE, "sliding_window": 16, "query_pre_attn_scalar": 40, "attn_logit_softcapping": 20.0}),
        ("gemma3_text", {"sliding_window": 20, "num_hidden_layers": 3, "sliding_window_pattern": 3}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 16, "vocab_size": 208}),
    ],
    "norms": [
        ("qwen3", {**WIDE, "head_dim": 64, "tie_word_embeddings": True, "max_position_embeddings": 512}),
        ("olmo2", {"num_key_value_heads": 2}),
        ("phi3", {"sliding_window": 24, "partial_rotary_factor": 0.5}),
    ],
    "experts": [
        ("mixtral", {**THREE, "sliding_window": 20, "num_local_experts": 4, "num_experts_per_tok": 2}),
        ("qwen2_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
        ("llama", {"rope_parameters": LLAMA3, "attention_bias": True, "num_key_value_heads": 2}),
    ],
    "rotary": [
        ("llama", {**WIDE, "rope_parameters": YARN}),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
        ("granite", {"logits_scaling": 2.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0}),
    ],
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Words w0, w1, ...: w0 ends a text."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", bos_token="w1", pad_token="w0")


def build(family: str, seed: int, **options: Any) -> Any:
    """A random model in fp32.

    Args:
        family: transformers' name of the type, such as "llama".
        options: of its configuration.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**_SHAPE, **options}))
    return model.float().eval()


def save(folder: str | Path, family: str, seed: int, **options: Any) -> str:
    """Saves a model of `build`, without a tokenizer; returns the folder."""
    build(family, seed, **options).save_pretrained(folder)
    return str(folder)


def save_all(where: Path, models: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Saves models by name, each a family and its options, with seeds from 0 up; returns their folders."""
    return {
        name: save(where / name, family, seed, **options)
        for seed, (name, (family, options)) in enumerate(models.items())
    }


def packed(folder: Path, method: MixingMethod, sources: Mapping[str, str], **options: Any) -> Path:
    """A checkpoint of `eft pack` with the tokenizer."""
    pack(folder, sources, method, tokenizer=tokenizer(), check_tokenizers=False, **options)
    return folder
