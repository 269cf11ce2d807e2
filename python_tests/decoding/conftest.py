"""Tiny random models of every family that the engine is tested with, and what a row's logits have to be."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers as hf

from python_tests.helpers.one_thread import one_thread as one_thread
from python_tests.helpers.slow_params import slowly_but

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "gpt2", "gpt_neox", "falcon")
RAGGED = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27], [31], [41, 42, 43, 44, 45]]


def build_model(family: str, seed: int = 0, hidden: int = 32, vocab: int = 264) -> Any:
    torch.manual_seed(seed)
    ids: dict[str, Any] = dict(vocab_size=vocab, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    shape: dict[str, Any] = dict(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    grouped = dict(**ids, **shape, num_key_value_heads=2)
    head = hidden // 4
    if family == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**grouped)).eval()
    if family == "qwen2":
        return hf.Qwen2ForCausalLM(hf.Qwen2Config(**grouped)).eval()
    if family == "qwen3":
        return hf.Qwen3ForCausalLM(hf.Qwen3Config(**grouped, head_dim=head)).eval()
    if family == "mistral":
        return hf.MistralForCausalLM(hf.MistralConfig(**grouped, sliding_window=6)).eval()
    if family == "gemma2":  # bounded scores and logits; every other layer slides
        softcaps = dict(final_logit_softcapping=5.0, attn_logit_softcapping=20.0)
        return hf.Gemma2ForCausalLM(hf.Gemma2Config(**grouped, **softcaps, head_dim=head, sliding_window=6)).eval()
    if family == "gemma3":
        kinds = ["sliding_attention", "full_attention"]
        config = hf.Gemma3TextConfig(**grouped, head_dim=head, sliding_window=6, layer_types=kinds)
        return hf.Gemma3ForCausalLM(config).eval()
    if family == "gpt_neox":
        return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**ids, **shape)).eval()
    if family == "falcon":
        shape.pop("intermediate_size")
        return hf.FalconForCausalLM(hf.FalconConfig(**ids, **shape, alibi=False, multi_query=True)).eval()
    config = hf.GPT2Config(**ids, n_embd=hidden, n_layer=2, n_head=4, n_positions=512, initializer_range=0.3)
    return hf.GPT2LMHeadModel(config).eval()


@cache
def cached_model(family: str, seed: int = 0, hidden: int = 32, vocab: int = 264) -> Any:
    return build_model(family, seed, hidden, vocab)


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    return build_model


@pytest.fixture(scope="session")
def model_of() -> Callable[..., Any]:
    """model_of(family, seed, hidden, vocab): the same model for the same arguments."""
    return cached_model


@pytest.fixture
def llamas() -> list[Any]:
    """[large, tuned, base], the first one padded differently."""
    return [cached_model("llama", 0, 32, 272), cached_model("llama", 1, 16), cached_model("llama", 2, 16)]


FAST = "gemma2"  # layers that slide and layers that do not; `llamas` are what other tests have


@pytest.fixture(params=slowly_but((FAST,), FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ragged() -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask [4, 7], padded on the left."""
    longest = max(map(len, RAGGED))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in RAGGED])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in RAGGED])
    return ids, mask


class Truth:
    """The tokens of each row, and the logits of a pass over all of them."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rows = [list(row) for row in RAGGED]

    def append(self, tokens: torch.Tensor) -> None:
        for row, new in zip(self.rows, tokens.tolist(), strict=True):
            row += new

    @torch.no_grad()
    def last(self, n: int = 1) -> torch.Tensor:
        """[rows, n, vocab]"""
        return torch.stack([self.model(torch.tensor([row])).logits[0, -n:] for row in self.rows])


@pytest.fixture
def truth() -> Callable[[Any], Truth]:
    return Truth
