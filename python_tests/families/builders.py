"""Small random models of the families that people use, from transformers' own configurations.

Each line of the table is a configuration's type and what gives a model of two layers all that its family is known for:
windows that slide, experts, caps, sinks, scaled positions, tied embeddings, keys that later layers share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import transformers as hf

from python_tests.families.shapes import (
    CHUNKED,
    EXPERTS,
    LINEAR,
    LLAMA3,
    LOCAL,
    LONGROPE,
    MAMBA,
    MLA,
    MROPE,
    SHARED,
    SLIDING,
    SSM,
    VISION,
    WINDOW,
    shape_of,
)


@dataclass(frozen=True)
class Family:
    """A model family: how to build one, and what comes of it.

    Attributes:
        kind: the configuration's type.
        more: what it takes beside `shape_of`.
        names: what the sizes are called where it has names of its own (width, layers, heads), as in GPT-2.
        tier: how it is decoded.
        because: of an eager one, part of the reason.
        alone: rows of a batch disturb each other in transformers' own code, which is refused.
        loose: transformers' cached and uncached passes differ by more than rounding.
    """

    kind: str
    more: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, str, str] | None = None
    tier: str = "async"
    because: str = ""
    alone: bool = False
    loose: bool = False


_GPT = ("n_embd", "n_layer", "n_head")
_RECURRENT = dict(tier="eager", because="layers of kind")
_STATE = dict(names=("hidden_size", "num_hidden_layers", ""), tier="eager", because="without past_key_values")

FAMILIES: dict[str, Family] = {
    "Llama 2, 3 (llama3 RoPE)": Family("llama", dict(rope_parameters=LLAMA3)),
    "Llama 4 (text)": Family("llama4_text", CHUNKED, tier="eager", because="chunked_attention"),
    "Qwen 2, 2.5 (tied)": Family("qwen2", dict(tie_word_embeddings=True)),
    "Qwen 2 MoE": Family("qwen2_moe", dict(**EXPERTS, shared_expert_intermediate_size=32)),
    "Qwen 3": Family("qwen3"),
    "Qwen 3 MoE": Family("qwen3_moe", EXPERTS),
    "Qwen 3 Next": Family("qwen3_next", dict(**EXPERTS, **LINEAR, shared_expert_intermediate_size=32), **_RECURRENT),
    "Qwen 3.5 (text)": Family("qwen3_5_text", LINEAR, **_RECURRENT),
    "Mistral": Family("mistral", dict(sliding_window=WINDOW)),
    "Mixtral": Family("mixtral", LOCAL),
    "Ministral": Family("ministral", SLIDING),
    "Ministral 3": Family("ministral3"),
    "Gemma": Family("gemma"),
    "Gemma 2": Family("gemma2", dict(sliding_window=WINDOW, final_logit_softcapping=5.0, attn_logit_softcapping=20.0)),
    "Gemma 3 (text)": Family("gemma3_text", SLIDING),
    "Gemma 3n (text)": Family("gemma3n_text", dict(**SHARED, laurel_rank=8, altup_num_inputs=2)),
    "Gemma 4 (text)": Family("gemma4_text", dict(**SHARED, global_head_dim=16)),
    "Phi-1.5, Phi-2": Family("phi", dict(partial_rotary_factor=0.5)),
    "Phi-3, Phi-4": Family("phi3"),
    "Phi-3 128k, Phi-4-mini (longrope)": Family("phi3", LONGROPE, tier="eager", because="longrope"),
    "Phi-3.5 MoE": Family("phimoe", LOCAL),
    "OLMo": Family("olmo"),
    "OLMo 2": Family("olmo2"),
    "OLMo 3": Family("olmo3", SLIDING),
    "OLMoE": Family("olmoe", EXPERTS),
    "Granite 3": Family("granite", dict(embedding_multiplier=2.0, logits_scaling=2.0, residual_multiplier=0.5)),
    "Granite MoE": Family("granitemoe", LOCAL),
    "Granite 4 (hybrid)": Family(
        "granitemoehybrid",
        dict(**LOCAL, **MAMBA, layer_types=["mamba", "attention"], shared_intermediate_size=32),
        **_RECURRENT,
    ),
    "SmolLM 3": Family("smollm3", dict(no_rope_layers=[1, 0])),
    "Command R": Family("cohere", dict(logit_scale=0.25)),
    "Command R7B, A": Family("cohere2", SLIDING),
    "DeepSeek V2": Family("deepseek_v2", MLA),
    "DeepSeek V3": Family("deepseek_v3", MLA),
    "GLM 4 (9B)": Family("glm"),
    "GLM 4 (0414)": Family("glm4"),
    "GLM 4.5": Family(
        "glm4_moe",
        dict(EXPERTS, n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1),
    ),
    "gpt-oss (sinks)": Family("gpt_oss", dict(**LOCAL, **SLIDING)),
    "StarCoder 2": Family("starcoder2", dict(sliding_window=WINDOW)),
    "StableLM": Family("stablelm"),
    "Nemotron 3, 4": Family("nemotron"),
    "EXAONE 4": Family("exaone4", SLIDING),
    "ERNIE 4.5": Family("ernie4_5"),
    "Seed-OSS": Family("seed_oss"),
    "Hunyuan": Family("hunyuan_v1_dense"),
    "Apertus": Family("apertus"),
    "AFM": Family("arcee"),
    "LFM 2": Family("lfm2", dict(layer_types=["conv", "full_attention"]), **_RECURRENT),
    "GPT-2": Family("gpt2", dict(n_positions=512), names=_GPT),
    "GPT-J": Family("gptj", dict(n_positions=512, rotary_dim=4), names=_GPT),
    "GPT-Neo": Family(
        "gpt_neo",
        dict(attention_types=[[["global", "local"], 1]], window_size=WINDOW, max_position_embeddings=512),
        names=("hidden_size", "num_layers", "num_heads"),
        tier="eager",
        because="gives other logits",
    ),
    "GPT-NeoX, Pythia": Family("gpt_neox", dict(rotary_pct=0.5)),
    "StarCoder (GPT-BigCode)": Family("gpt_bigcode", dict(n_positions=512), names=_GPT),
    "CodeGen": Family("codegen", dict(n_positions=512, rotary_dim=4), names=_GPT),
    "OPT": Family("opt", dict(ffn_dim=64, word_embed_proj_dim=32)),
    "BLOOM": Family("bloom", names=("hidden_size", "n_layer", "n_head"), tier="eager", because="without position_ids"),
    "Falcon": Family("falcon", dict(multi_query=True, alibi=False), names=()),
    "Falcon RW (ALiBi)": Family("falcon", dict(multi_query=False, alibi=True), names=(), tier="eager", because="ALiBi"),
    "MPT": Family(
        "mpt", dict(max_seq_len=512), names=("d_model", "n_layers", "n_heads"), tier="eager", because="use_cache is off"
    ),
    "Persimmon": Family("persimmon"),
    "Mamba": Family("mamba", SSM, **_STATE),
    "Mamba 2, Codestral Mamba": Family(
        "mamba2", dict(**SSM, head_dim=8, num_heads=8, n_groups=1, chunk_size=8), **_STATE
    ),
    "Falcon Mamba": Family("falcon_mamba", SSM, **_STATE),
    "Falcon-H1": Family("falcon_h1", dict(**MAMBA, mamba_d_ssm=64), **_RECURRENT),
    "Jamba": Family(
        "jamba",
        dict(EXPERTS, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1)
        | dict(mamba_d_state=8, mamba_dt_rank=8),
        **_RECURRENT,
    ),
    "Bamba": Family("bamba", dict(**MAMBA, attn_layer_indices=[1]), **_RECURRENT),
    "Zamba 2": Family(
        "zamba2",
        dict(
            mamba_d_state=8,
            n_mamba_heads=8,
            mamba_headdim=8,
            mamba_ngroups=1,
            chunk_size=8,
            num_mem_blocks=1,
            use_mem_rope=True,
        )
        | dict(layers_block_type=["mamba", "hybrid"]),
        loose=True,
        **_RECURRENT,
    ),
    "Nemotron-H": Family(
        "nemotron_h",
        dict(
            hybrid_override_pattern="M*",
            mamba_num_heads=8,
            mamba_head_dim=8,
            ssm_state_size=8,
            n_groups=1,
            chunk_size=8,
        ),
        loose=True,
        **_RECURRENT,
    ),
    "RecurrentGemma": Family(
        "recurrent_gemma",
        dict(attention_window_size=WINDOW, block_types=["recurrent", "attention"], lru_width=32),
        tier="eager",
        because="state in its modules",
        alone=True,
    ),
    "RWKV 4": Family("rwkv", dict(attention_hidden_size=32, context_length=512), **dict(_STATE, alone=True)),
    "MiniMax-Text-01": Family(
        "minimax", dict(**LOCAL, layer_types=["linear_attention", "full_attention"]), **dict(_RECURRENT, alone=True)
    ),
    "Gemma 3 (4B and larger, with images)": Family("gemma3", SLIDING),
    "Gemma 4 (with images)": Family("gemma4", dict(**SHARED, global_head_dim=16)),
    "Qwen 2 VL": Family("qwen2_vl", MROPE),
    "Qwen 2.5 VL": Family("qwen2_5_vl", MROPE),
    "Qwen 3 VL": Family("qwen3_vl", MROPE),
    "Mistral Small 3.1 (with images)": Family("mistral3"),
    "LLaVA": Family("llava"),
}
WRAPPERS = ("gemma3", "gemma4", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mistral3", "llava")


def config_of(name: str, hidden: int = 32, vocab: int = 264, **change: Any) -> Any:
    """The configuration of a family's small model. Raises ValueError where this transformers does not know it."""
    family = FAMILIES[name]
    shape = shape_of(hidden, vocab)
    if family.names is not None:
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        kept = (*sizes, "vocab_size", "initializer_range", "pad_token_id", "bos_token_id", "eos_token_id")
        shape = {key: value for key, value in shape.items() if key in kept}
        for own, usual in zip(family.names, sizes, strict=False):
            value = shape.pop(usual)
            shape |= {own: value} if own else {}
    shape |= family.more | change
    if family.kind not in WRAPPERS:
        return hf.AutoConfig.for_model(family.kind, **shape)
    usual = hf.AutoConfig.for_model(family.kind)
    text = {**shape, "model_type": usual.get_text_config().model_type}
    if family.kind.startswith("qwen2"):
        text.pop("head_dim")
    vision = {**VISION, "model_type": getattr(usual.vision_config, "model_type", f"{family.kind}_vision")}
    more: dict[str, Any] = dict(vision_config=vision, tie_word_embeddings=False, image_token_id=vocab - 1)
    return hf.AutoConfig.for_model(family.kind, text_config=text, **more)


def build(name: str, seed: int = 0, hidden: int = 32, vocab: int = 264, **change: Any) -> Any:
    """A model of random weights, in eval mode."""
    config = config_of(name, hidden, vocab, **change)
    torch.manual_seed(seed)
    wrapper = FAMILIES[name].kind in WRAPPERS
    kind = hf.AutoModelForImageTextToText if wrapper else hf.AutoModelForCausalLM
    return kind.from_config(config).eval()


@cache
def trio(name: str) -> tuple[Any, Any, Any]:
    """(large, tuned, base), whose vocabularies are padded differently."""
    return build(name, 0, vocab=272), build(name, 1), build(name, 2)
