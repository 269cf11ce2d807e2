"""Sizes of the small models, and what several families' configurations have in common."""

from __future__ import annotations

from typing import Any

PAD, BOS, EOS = 0, 1, 2
WINDOW = 8


def shape_of(hidden: int, vocab: int) -> dict[str, Any]:
    """Arguments of most decoders' configurations."""
    return dict(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=512,
        initializer_range=0.3,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
LONGROPE = dict(
    original_max_position_embeddings=64,
    rope_parameters=dict(
        rope_type="longrope",
        rope_theta=10000.0,
        short_factor=[1.0, 1.1, 1.2, 1.3],
        long_factor=[2.0, 3.0, 4.0, 5.0],
        factor=8.0,
        original_max_position_embeddings=64,
    ),
)
SLIDING = dict(sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"])
SHARED = dict(  # the last two of four layers read the keys of the first two
    sliding_window=WINDOW,
    layer_types=["sliding_attention", "full_attention"] * 2,
    num_hidden_layers=4,
    num_kv_shared_layers=2,
    vocab_size_per_layer_input=272,
    hidden_size_per_layer_input=8,
)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
LOCAL = dict(num_local_experts=4, num_experts_per_tok=2)
CHUNKED = dict(**LOCAL, interleave_moe_layer_step=2, intermediate_size_mlp=64, attention_chunk_size=WINDOW)
MLA = dict(
    kv_lora_rank=16,
    q_lora_rank=None,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=8,
    head_dim=8,
    num_key_value_heads=4,
    n_routed_experts=4,
    n_shared_experts=1,
    num_experts_per_tok=2,
    n_group=2,
    topk_group=1,
    first_k_dense_replace=1,
    moe_intermediate_size=32,
)
LINEAR = dict(
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_conv_kernel_dim=4,
    layer_types=["linear_attention", "full_attention"],
)
MAMBA = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=8)
SSM = dict(state_size=8, conv_kernel=4, expand=2)
MROPE = dict(rope_parameters=dict(rope_type="default", mrope_section=[1, 1, 2], rope_theta=10000.0))
VISION = dict(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
    num_key_value_heads=2,
    head_dim=8,
    depth=1,
    num_heads=2,
    embed_dim=16,
)
