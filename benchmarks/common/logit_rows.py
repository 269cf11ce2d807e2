"""Logits to time with: like a language model's, of an entropy, flat, one-hot, recorded from the demonstration trio."""

from __future__ import annotations

import torch
from torch import Tensor


def lm(batch: int, vocab: int, generator: torch.Generator) -> list[Tensor]:
    """Returns three models that agree on most of a Zipf-like ranking: a head over a broad floor, 14 nats in all."""
    zipf = -1.2 * torch.log(torch.arange(1, vocab + 1).float())
    common = zipf[torch.randperm(vocab, generator=generator)]
    return [common + 0.5 * torch.randn(batch, vocab, generator=generator) for _ in range(3)]


def flat(batch: int, vocab: int, generator: torch.Generator) -> list[Tensor]:
    """Nearly uniform: every token is a candidate of a nucleus."""
    return [0.01 * torch.randn(batch, vocab, generator=generator) for _ in range(3)]


def one_hot(batch: int, vocab: int, generator: torch.Generator) -> list[Tensor]:
    """One token 60 nats above the others."""
    hot = torch.randint(vocab, (batch,), generator=generator)
    return [60.0 * torch.nn.functional.one_hot(hot, vocab).float() for _ in range(3)]


def demo(batch: int, vocab: int, generator: torch.Generator) -> list[Tensor]:
    """Returns logits of the embedded trio along its own answers, repeated lower down to fill `vocab`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from eft_ext.demo import model_path

    names = ("large-base", "small-tuned", "small-base")
    tokenizer = AutoTokenizer.from_pretrained(model_path(names[0]))
    ids = tokenizer("Thank you for asking! ", return_tensors="pt").input_ids
    models = [AutoModelForCausalLM.from_pretrained(model_path(name)) for name in names]
    with torch.no_grad():
        ids = models[0].generate(ids, do_sample=True, max_new_tokens=48, min_new_tokens=48)
        recorded = [model(ids).logits[0].float() for model in models]  # [T, V]
    pick = torch.randint(recorded[0].shape[0], (batch,), generator=generator)
    repeats = -(-vocab // recorded[0].shape[1])
    lower = -4.0 * torch.arange(repeats).float().repeat_interleave(recorded[0].shape[1])[:vocab]
    return [x[pick].repeat(1, repeats)[:, :vocab] + lower for x in recorded]


def zipf_mandelbrot(low: float, high: float, batch: int, vocab: int, generator: torch.Generator) -> list[Tensor]:
    """Returns models whose mixture has a Zipf-Mandelbrot head, (rank + 1)^-s with s from low to high, over noise."""
    noise, order, apart, tuning = torch.randn(4, batch, vocab, generator=generator)
    s = torch.linspace(low, high, batch, dtype=torch.float64)[:, None]
    head = torch.softmax(-s * torch.arange(2, vocab + 2).log(), 1).gather(1, order.argsort(1))
    share = 10 ** (-3 + 1.5 * torch.rand(batch, 1, generator=generator))  # of the noise: .1 to 3 %
    p = (1 - share) * head + share * torch.softmax(2.0 * noise.double(), 1)
    mixture = (24.0 + (p / p.amax(1, keepdim=True)).log()).float()  # as large as a model's, for what bf16 rounds
    base = 0.9 * mixture + 0.5 * apart
    return [mixture - 0.3 * tuning, base + 0.3 * tuning, base]


ROWS = {f.__name__: f for f in (lm, flat, one_hot, demo)}


def make(name: str, batch: int, vocab: int, dtype: torch.dtype, models: int) -> list[Tensor]:
    """Returns `models` tensors [batch, vocab] of the kind `name`, the same for the same arguments."""
    generator = torch.Generator().manual_seed(batch * 1_000_003 + vocab)
    return [x.to(dtype) for x in ROWS[name](batch, vocab, generator)[:models]]
