"""Tiny random models in fp64, and random responses for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from eft_ext.dynamics import Pairs, Responses
from python_tests.helpers.one_thread import one_thread as one_thread

VOCAB = 48


def build(family: str, seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    if family == "gpt2":
        config = GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3)
        return GPT2LMHeadModel(config).double().eval()
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4)
    llama = LlamaConfig(vocab_size=VOCAB, num_key_value_heads=2, initializer_range=0.3, **shape, **more)
    return LlamaForCausalLM(llama).double().eval()


@pytest.fixture(params=("llama", "gpt2"))
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


@pytest.fixture
def llama() -> Any:
    return build("llama")


def draw(rows: int, seed: int) -> Responses:
    """Prompts of 1 to 5 tokens, responses of 1 to 6."""
    g = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        return torch.randint(VOCAB, (int(torch.randint(low, high, (1,), generator=g)),), generator=g).tolist()

    return Responses.from_ids([(ids(1, 6), ids(1, 7)) for _ in range(rows)])


class Answers(nn.Module):
    """Says the same to everything, and notes what it reads."""

    def __init__(self, said: list[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.said = said
        self.read: list[list[int]] = []

    def generate(self, ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any) -> torch.Tensor:
        self.read += [row[real.bool()].tolist() for row, real in zip(ids, attention_mask, strict=True)]
        return torch.cat([ids, torch.tensor([self.said] * len(ids))], dim=1)


@pytest.fixture
def responses() -> Callable[[int, int], Responses]:
    return draw


@pytest.fixture
def pairs() -> Callable[[Any], Pairs]:
    """Three preferences, with another model's log-probs as the reference."""
    return lambda model: Pairs(draw(3, 11), draw(3, 12)).with_reference(build("llama", seed=9))


@pytest.fixture
def small_base() -> tuple[Any, Any]:
    """The demonstration's small pre-trained model and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from eft_ext.demo import model_path

    folder = model_path("small-base")
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
