"""Tiny random trios of five families, a byte-level tokenizer for them, and the loop everything is held to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from eft_ext.hf import EmulatedModel
from python_tests.helpers.naive import RAGGED, padded
from python_tests.helpers.one_thread import one_thread as one_thread
from python_tests.helpers.slow_params import slowly_but

PAD, BOS, EOS = 0, 1, 2
FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "gemma2")
VOCAB = {"large": 272, "tuned": 264, "base": 264}  # as padded differently; the tokenizer has 260


def build_model(family: str, seed: int, hidden: int, vocab: int) -> Any:
    torch.manual_seed(seed)
    ids: dict[str, Any] = dict(vocab_size=vocab, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
    shape: dict[str, Any] = dict(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**ids, **shape, num_key_value_heads=2)).eval()
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**ids, **shape, num_key_value_heads=2)).eval()
    if family == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**ids, **shape)).eval()
    if family == "gemma2":
        config = Gemma2Config(
            **ids,
            **shape,
            num_key_value_heads=2,
            head_dim=hidden // 4,
            sliding_window=6,
            final_logit_softcapping=5.0,
        )
        return Gemma2ForCausalLM(config).eval()
    config = GPT2Config(**ids, n_embd=hidden, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3)
    return GPT2LMHeadModel(config).eval()


@cache
def _trio(family: str) -> tuple[Any, Any, Any]:
    return (
        build_model(family, 0, 32, VOCAB["large"]),
        build_model(family, 1, 16, VOCAB["tuned"]),
        build_model(family, 2, 16, VOCAB["base"]),
    )


FAST = "gemma2"  # layers that slide and layers that do not; `llamas` are what other tests have


@pytest.fixture(params=slowly_but((FAST,), FAMILIES))
def trio(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    """(large, tuned, base) of each family."""
    return _trio(request.param)


@pytest.fixture
def llamas() -> tuple[Any, Any, Any]:
    """(large, tuned, base) where one family is enough."""
    return _trio("llama")


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """build(family, seed, hidden size, vocabulary) -> a random model."""
    return build_model


@pytest.fixture(scope="module", name="models")
def four_models(build: Callable[..., Any]) -> list[Any]:
    """Random models of two sizes: a large one and three small ones."""
    large = build("llama", 0, 32, VOCAB["large"])
    return [large, *(build("llama", seed, 16, VOCAB["tuned"]) for seed in (1, 2, 3))]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Four special tokens and the 256 bytes."""
    specials = ["<pad>", "<bos>", "<eos>", "<turn>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(specials + alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True) for token in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture
def model(llamas: tuple[Any, Any, Any], tokenizer: Any) -> EmulatedModel:
    """The llamas as one, with the tokenizer."""
    return EmulatedModel(*llamas, tokenizer)


@pytest.fixture
def free(model: EmulatedModel, ragged: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Twelve new tokens of each row where nothing ends one."""
    ids, mask = ragged
    return model.generate(ids, attention_mask=mask, max_new_tokens=12, eos_token_id=[999])[:, ids.shape[1] :]


@contextmanager
def forward_shapes(module: Any) -> Iterator[list[tuple[int, ...]]]:
    """Collects the shapes of the ids that a model is called with by name."""
    shapes: list[tuple[int, ...]] = []
    hook = module.register_forward_hook(
        lambda module, args, kwargs, output: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        yield shapes
    finally:
        hook.remove()


@pytest.fixture
def shapes_read() -> Callable[..., Any]:
    return forward_shapes


@pytest.fixture(params=[1, 4], ids=["one row", "ragged"])
def batch(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask, left-padded."""
    return padded(RAGGED[: request.param])


@pytest.fixture
def ragged() -> tuple[torch.Tensor, torch.Tensor]:
    return padded(RAGGED)


def naive_greedy(
    models: Sequence[Any], weights: Sequence[float], prompts: Sequence[Sequence[int]], new: int
) -> list[int]:
    """One row, three forward passes over everything at each token: nothing cached, padded or fused."""
    return _naive(tuple(models), tuple(weights), tuple(map(tuple, prompts)), new)


@cache  # the same for several tests
@torch.no_grad()
def _naive(models: tuple[Any, ...], weights: tuple[float, ...], prompts: tuple[Any, ...], new: int) -> list[int]:
    sequences = [list(prompt) for prompt in prompts]
    out: list[int] = []
    for _ in range(new):
        z = torch.zeros(min(VOCAB.values()))
        for model, weight, sequence in zip(models, weights, sequences, strict=True):
            z = z + weight * model(torch.tensor([sequence])).logits[0, -1, : len(z)]
        token = int(z.argmax())
        out.append(token)
        if token == EOS:
            break
        for sequence in sequences:
            sequence.append(token)
    return out


@pytest.fixture
def naive() -> Callable[..., list[int]]:
    return naive_greedy


def new_tokens(ids: torch.Tensor, prompt_length: int) -> list[list[int]]:
    """New tokens of each row, up to and with the end of text."""
    rows = [row[prompt_length:] for row in ids.tolist()]
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


@pytest.fixture
def cut() -> Callable[..., list[list[int]]]:
    return new_tokens
