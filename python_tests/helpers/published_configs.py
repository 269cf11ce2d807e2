"""Configurations of published models by their numbers, and checkpoints of them without weights."""

from pathlib import Path
from typing import Any

from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from eft_ext.config import EmulatedConfig
from eft_ext.hf.checkpoint.read import Checkpoint, read
from eft_ext.methods import MixingMethod, UpScale

REVISION = "0" * 40


def llama(hidden: int, inner: int, layers: int, heads: int, **more: Any) -> LlamaConfig:
    """A Llama 3.1: 8 key-value heads of 128, a vocabulary of 128,256 and a context of 131,072."""
    shape = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    fixed = {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}
    options = {"num_attention_heads": heads, "tie_word_embeddings": False, **shape, **fixed, **more}
    return LlamaConfig(architectures=["LlamaForCausalLM"], dtype="bfloat16", **options)


def llama_70b(**more: Any) -> LlamaConfig:
    return llama(8192, 28672, 80, 64, **more)


def llama_8b(**more: Any) -> LlamaConfig:
    return llama(4096, 14336, 32, 32, **more)


def qwen(hidden: int, inner: int, layers: int, heads: int, shared: int, **more: Any) -> Qwen2Config:
    """A Qwen2.5 with a context of 32,768."""
    shape = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    options = {"num_attention_heads": heads, "num_key_value_heads": shared, "max_position_embeddings": 32768}
    return Qwen2Config(architectures=["Qwen2ForCausalLM"], dtype="bfloat16", **{**shape, **options, **more})


def qwen_32b(**more: Any) -> Qwen2Config:
    return qwen(5120, 27648, 64, 40, 8, **{"vocab_size": 152064, "tie_word_embeddings": False, **more})


def qwen_1_5b(**more: Any) -> Qwen2Config:
    return qwen(1536, 8960, 28, 12, 2, **{"vocab_size": 151936, "tie_word_embeddings": True, **more})


def folder(path: Path, *configs: PretrainedConfig, method: MixingMethod | None = None, dtype: Any = "bfloat16") -> Path:
    """A checkpoint whose models' weights are on the hub, under names that are not there."""
    method = method or UpScale()
    models = dict(zip(method.models, configs, strict=True))
    weights = {name: {"hub": f"nobody/{name}", "revision": REVISION} for name in models}
    EmulatedConfig(method, weights, dtype=dtype, **models).save_pretrained(path)
    return path


def checkpoint(path: Path, *configs: PretrainedConfig, **options: Any) -> Checkpoint:
    """The same, read."""
    return read(folder(path, *configs, **options), {})
