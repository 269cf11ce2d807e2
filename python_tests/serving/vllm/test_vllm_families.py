"""Trios of different families in vLLM, on texts longer than their sliding windows, against a naive loop."""

from contextlib import nullcontext as nothing
from pathlib import Path
from typing import Any

import pytest
import torch

from eft_ext.methods import UpScale
from python_tests.helpers import tiny_models
from python_tests.helpers.naive import greedy, up_scaled

WIDE = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}
# Pages of the cache of 3 and 2 heads do not divide one another.
THREE = {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 3}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 64},
    **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
# large, tuned and base: a family and what differs from `tiny_models`.
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
PROMPTS = ([7, 8, 9], list(range(20, 66)), [150 + i % 40 for i in range(90)], [3])
BETAS = (None, 0.0, 2.0)
TOKENS = 12


@pytest.mark.slow
@pytest.mark.parametrize("trio", TRIOS)
def test_outputs_are_the_naive_loops(trio: str, start: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM
    from vllm import SamplingParams

    method = UpScale(1.0)
    sources = {
        name: tiny_models.save(tmp_path / name, family, seed, **options)
        for seed, (name, (family, options)) in enumerate(zip(method.models, TRIOS[trio], strict=True))
    }
    with pytest.warns(UserWarning, match="soft") if trio == "gemmas" else nothing():
        checkpoint = tiny_models.packed(tmp_path / "packed", method, sources)
    models = [
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
        for source in sources.values()
    ]
    asked = [(prompt, beta) for beta in BETAS for prompt in PROMPTS]
    # First, since vLLM changes transformers' classes of the models that it has no code of its own for.
    expected = [greedy(models, up_scaled(1.0 if beta is None else beta), prompt, TOKENS) for prompt, beta in asked]
    params = [
        SamplingParams(temperature=0, max_tokens=TOKENS, extra_args=None if beta is None else {"beta": beta})
        for _, beta in asked
    ]
    prompts = [{"prompt_token_ids": prompt} for prompt, _ in asked]
    found = start(checkpoint).generate(prompts, params, use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in found] == expected
