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


def packed(folder: Path, method: MixingMethod, sources: Mapping[str, str], **options: Any) -> Path:
    """A checkpoint of `eft pack` with the tokenizer."""
    pack(folder, sources, method, tokenizer=tokenizer(), check_tokenizers=False, **options)
    return folder
