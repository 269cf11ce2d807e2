"""Heads of another size compute the same, by a Llama written out in torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from eft_ext.demo.fit import fit
from eft_ext.demo.recipe import Stage
from eft_ext.demo.widen import resize_heads
from python_tests.helpers import plain_llama


def llama(**more: Any) -> LlamaForCausalLM:
    torch.manual_seed(3)
    shape = dict(vocab_size=40, hidden_size=24, intermediate_size=20, num_hidden_layers=2, initializer_range=0.3)
    model = LlamaForCausalLM(LlamaConfig(**shape | dict(num_attention_heads=4, num_key_value_heads=2) | more))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("wide", [12, 18, 24, 32], ids=lambda wide: f"head {wide}")
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_any_multiple_is_the_same_function(wide: int, bias: bool, dtype: torch.dtype) -> None:
    narrow = llama(attention_bias=bias, head_dim=8 if wide == 32 else 6).to(dtype)
    ids = torch.randint(40, (30,), generator=torch.Generator().manual_seed(1)).tolist()
    want = plain_llama.logits(narrow.state_dict(), narrow.config, narrow.config.head_dim, ids)
    model = resize_heads(narrow, wide)
    assert model.dtype == dtype
    with torch.no_grad():
        got = model(torch.tensor([ids])).logits[0].double()
    torch.testing.assert_close(got, want, rtol=0, atol=2e-5)  # transformers' angles are fp32 in fp64 too
    assert (model.config.head_dim, narrow.config.head_dim) == (wide, 8 if wide == 32 else 6)
    assert model.generation_config.to_dict() == narrow.generation_config.to_dict()


def test_four_times_as_wide_and_back_is_exact() -> None:
    model = llama()
    wide = resize_heads(model, 24)
    ids = torch.arange(30)[None]
    torch.testing.assert_close(wide(ids).logits, model(ids).logits, rtol=0, atol=2e-6)
    back = resize_heads(wide, 6).state_dict()
    assert all(torch.equal(back[name], weight) for name, weight in model.state_dict().items())
    assert resize_heads(model, 6) is model


def test_training_leaves_the_zeros() -> None:
    model = resize_heads(llama(), 12)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    ids = torch.randint(40, (2, 20), generator=torch.Generator().manual_seed(1))
    fit(model, iter([(ids, ids)] * 3), Stage(steps=3, lr=1e-2, warmup=1), lambda: None)
    for name, weight in model.state_dict().items():
        assert not torch.equal(weight, before[name])
        assert not weight[before[name] == 0].any()


@pytest.mark.parametrize("size", [0, -6, 3, 4, 5, 9, 13])
def test_sizes_that_do_not_divide(size: int) -> None:
    with pytest.raises(ValueError, match=f"^head_dim: expected an even divisor or a multiple of 6, got {size}$"):
        resize_heads(llama(), size)


def test_heads_that_were_not_widened() -> None:
    with pytest.raises(ValueError, match=r"^head_dim: expected heads that were widened from 2, got other heads of 6$"):
        resize_heads(llama(), 2)


def test_another_rotary_type() -> None:
    scaled = llama(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})
    with pytest.raises(ValueError, match=r"^model: expected rotary embeddings of type 'default', got 'linear'$"):
        resize_heads(scaled, 12)
