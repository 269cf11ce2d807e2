"""A Llama written out in torch, to compare transformers' with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import silu


def logits(weights: dict[str, torch.Tensor], config: Any, head_dim: int, ids: list[int]) -> torch.Tensor:
    """A Llama's logits in float64, head by head and position by position. Shapes: [tokens, vocab]."""
    w = {name: weight.double() for name, weight in weights.items()}
    theta = config.rope_parameters["rope_theta"]
    pairs, length = head_dim // 2, len(ids)
    shared = config.num_attention_heads // config.num_key_value_heads

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * w[name]

    def turned(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        for pair in range(pairs):
            angle = torch.arange(length).double() * theta ** (-pair / pairs)
            a, b = x[:, pair], x[:, pair + pairs]
            out[:, pair] = a * angle.cos() - b * angle.sin()
            out[:, pair + pairs] = b * angle.cos() + a * angle.sin()
        return out

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config.num_hidden_layers):
        of = f"model.layers.{layer}."

        def project(name: str, head: int, h: torch.Tensor, of: str = of) -> torch.Tensor:
            rows = slice(head * head_dim, (head + 1) * head_dim)
            bias = w.get(f"{of}self_attn.{name}.bias")
            return h @ w[f"{of}self_attn.{name}.weight"][rows].T + (0 if bias is None else bias[rows])

        h = norm(x, of + "input_layernorm.weight")
        heads = []
        for head in range(config.num_attention_heads):
            query, key = turned(project("q_proj", head, h)), turned(project("k_proj", head // shared, h))
            value = project("v_proj", head // shared, h)
            for t in range(length):
                share = (key[: t + 1] @ query[t] / math.sqrt(head_dim)).softmax(-1)
                heads.append(share @ value[: t + 1])
        mixed = torch.stack(heads).view(-1, length, head_dim).transpose(0, 1).flatten(1)
        x = x + mixed @ w[of + "self_attn.o_proj.weight"].T + w.get(of + "self_attn.o_proj.bias", 0.0)
        h = norm(x, of + "post_attention_layernorm.weight")
        gate, up, down = (w[f"{of}mlp.{name}_proj.weight"].T for name in ("gate", "up", "down"))
        x = x + (silu(h @ gate) * (h @ up)) @ down
    return norm(x, "model.norm.weight") @ w["lm_head.weight"].T
