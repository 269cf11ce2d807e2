"""A trio of random models with realistic costs and a chosen acceptance rate, without a download.

Models too small to cost anything show no gain from speculation. The large model is the small one and more layers whose
output projections are zero: they cost time and change nothing. Noise on its last projection sets how far the mixture is
from the draft model. Tuned and base are the same model, so the mixture is the large one.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def build_pair(
    layers: int, extra: int, hidden: int = 512, vocab: int = 4096
) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """Returns (large, small), which give the same logits, in fp32."""
    torch.manual_seed(0)
    shape = dict(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        initializer_range=0.05,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    small = LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=layers)).eval()
    large = LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=layers + extra)).eval()
    with torch.no_grad():
        small.lm_head.weight.mul_(2.0)  # logits with a spread of 2 to 3 nats, as a language model's
        missing, unexpected = large.load_state_dict(small.state_dict(), strict=False)
        assert not unexpected
        assert all(int(name.split(".")[2]) >= layers for name in missing)
        for layer in large.model.layers[layers:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return large, small


def perturb(large: LlamaForCausalLM, small: LlamaForCausalLM, size: float) -> None:
    """Adds noise of relative `size` to the large model's last projection: more of it, fewer accepted drafts."""
    with torch.no_grad():
        clean = small.lm_head.weight
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)) * clean.std()
        large.lm_head.weight.copy_(clean + size * noise)
