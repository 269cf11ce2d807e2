"""Sizes published models for vLLM by their configurations: the memory, the tokens that fit, the GPUs.

python examples/sizing.py [FOLDER]: with a folder the checkpoints stay there.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from eft_ext import EmulatedConfig, cli
from eft_ext.methods import MixingMethod, UpScale


def llama(hidden: int, inner: int, layers: int, heads: int, **more: Any) -> LlamaConfig:
    """A Llama 3.1: 8 key-value heads of 128, a vocabulary of 128,256 and a context of 131,072."""
    shape = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    fixed = {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}
    options = {"num_attention_heads": heads, "tie_word_embeddings": False, **shape, **fixed, **more}
    return LlamaConfig(architectures=["LlamaForCausalLM"], dtype="bfloat16", **options)


def qwen(hidden: int, inner: int, layers: int, heads: int, shared: int, **more: Any) -> Qwen2Config:
    """A Qwen2.5 with a context of 32,768."""
    shape = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    options = {"num_attention_heads": heads, "num_key_value_heads": shared, "max_position_embeddings": 32768}
    return Qwen2Config(architectures=["Qwen2ForCausalLM"], dtype="bfloat16", **{**shape, **options, **more})


def llama_70b(**more: Any) -> LlamaConfig:
    return llama(8192, 28672, 80, 64, **more)


def llama_8b(**more: Any) -> LlamaConfig:
    return llama(4096, 14336, 32, 32, **more)


def qwen_32b(**more: Any) -> Qwen2Config:
    return qwen(5120, 27648, 64, 40, 8, **{"vocab_size": 152064, "tie_word_embeddings": False, **more})


def qwen_1_5b(**more: Any) -> Qwen2Config:
    return qwen(1536, 8960, 28, 12, 2, **{"vocab_size": 151936, "tie_word_embeddings": True, **more})


TRIOS = {"llama-70b": (llama_70b, llama_8b, llama_8b), "qwen-32b": (qwen_32b, qwen_1_5b, qwen_1_5b)}
CASES = [
    ("llama-70b", "--gpus 8xH100"),
    ("llama-70b", "--gpus 8xH100 --kv-cache-dtype fp8"),
    ("llama-70b", "--gpus 8xH100 --speculate 3"),
    ("qwen-32b", "--gpus 1xH100"),
    ("qwen-32b", "--gpus 1xH100 --max-model-len 8192 --max-num-seqs 64 --max-num-batched-tokens 2048"),
    ("qwen-32b", "--gpus 1xH200"),
]


def write(
    folder: Path, *configs: PretrainedConfig, method: MixingMethod | None = None, dtype: Any = "bfloat16"
) -> Path:
    """A checkpoint that names places on the hub for its weights, where there are none."""
    method = method or UpScale()
    models = dict(zip(method.models, configs, strict=True))
    weights = {name: {"hub": f"nobody/{name}", "revision": "0" * 40} for name in models}
    EmulatedConfig(method, weights, dtype=dtype, **models).save_pretrained(folder)
    return folder


def main(folder: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(folder or temporary)
        for name, configs in TRIOS.items():
            write(where / name, *(config() for config in configs))
        for name, options in CASES:
            print(f"# eft serve {name} --engine vllm --dry-run {options}", flush=True)
            cli.main(["serve", str(where / name), "--engine", "vllm", "--dry-run", *options.split()])
            print()


if __name__ == "__main__":
    main(*sys.argv[1:])
