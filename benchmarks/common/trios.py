"""The trios of decoding benchmarks: the demonstration's, and random weights at real sizes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from eft_ext.demo import model_path

# hidden, intermediate, layers, heads, key-value heads; vocabulary: Llama-style models of about the size in the name
SIZES = {
    "tiny": (32, 64, 2, 4, 2, 300),
    "256w": (256, 768, 4, 4, 4, 128256),
    "128n": (128, 384, 4, 4, 4, 32000),
    "64n": (64, 192, 2, 4, 4, 32000),
    "128w": (128, 384, 2, 4, 4, 128256),
    "36M": (512, 1408, 6, 8, 8, 32000),
    "19M": (256, 704, 3, 4, 4, 32000),
    "0.5B": (1024, 4096, 24, 16, 8, 32000),
    "1B": (2048, 8192, 16, 32, 8, 128256),
    "7B": (4096, 11008, 32, 32, 32, 32000),
    "8B": (4096, 14336, 32, 32, 8, 128256),
    "13B": (5120, 13824, 40, 40, 40, 32000),
}
TRIOS = {
    "tiny": ("tiny", "tiny"),
    "demo": ("demo", "demo"),
    "narrow": ("128n", "64n"),
    "wide": ("256w", "128w"),
    "realistic": ("36M", "19M"),
    "1B": ("1B", "0.5B"),
    "8B": ("8B", "1B"),
    "13B": ("13B", "7B"),
}


def random_model(size: str, vocab: int, dtype: torch.dtype, device: str) -> Any:
    hidden, intermediate, layers, heads, kv_heads, _ = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = LlamaForCausalLM(config).eval()
    torch.set_default_dtype(before)
    return model


def load(name: str, dtype: torch.dtype, device: str) -> list[Any]:
    large, small = TRIOS[name]
    if large == "demo":
        logging.disable_progress_bar()
        names = ("large-base", "small-tuned", "small-base")
        return [AutoModelForCausalLM.from_pretrained(model_path(n), dtype=dtype).to(device).eval() for n in names]
    vocab = SIZES[large][-1]
    return [random_model(size, vocab, dtype, device) for size in (large, small, small)]
