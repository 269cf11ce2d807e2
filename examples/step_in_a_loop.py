"""The drop-in: a decoding loop of your own over three models, where one `fused_step` replaces six lines.

    python examples/step_in_a_loop.py [LARGE TUNED BASE]

Without arguments it runs the shipped models. It prints the text and the time per token of both ways of sampling, first
greedily, where the texts are equal, then with a temperature and top-p. Needs `pip install '.[hf]'`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import eft_ext
from eft_ext.demo import model_path

PROMPT = "Question: Where was Fikim Thetrond born?\nAnswer:"
EMBEDDED = [str(model_path(name)) for name in ("large-base", "small-tuned", "small-base")]


def six_lines(large: Tensor, tuned: Tensor, base: Tensor, temperature: float, top_p: float) -> Tensor:
    """Samples as a hand-written loop does."""
    z = large.log_softmax(dim=-1) + tuned.log_softmax(dim=-1) - base.log_softmax(dim=-1)
    p = torch.softmax(z / max(temperature, 1e-6), dim=-1)
    s, i = p.sort(dim=-1, descending=True)
    s[s.cumsum(dim=-1) - s > top_p] = 0
    pick = torch.multinomial(s, 1)
    return i.gather(-1, pick).squeeze(-1)


def one_line(large: Tensor, tuned: Tensor, base: Tensor, temperature: float, top_p: float) -> Tensor:
    """Samples from the same distribution."""
    token: Tensor = eft_ext.fused_step(large, tuned, base, temperature=temperature, top_p=top_p)
    return token


@torch.inference_mode()
def decode(models: list[Any], ids: Tensor, ends: list[int], sample: Callable[..., Tensor], **options: float) -> Any:
    """The new tokens of one row, and the median of the seconds that sampling took."""
    caches, new, seconds = [None] * len(models), [], []
    width = min(model.config.vocab_size for model in models)  # the six lines need it: some models pad their vocabulary
    while len(new) < 40:
        outputs = [model(ids, past_key_values=cache) for model, cache in zip(models, caches, strict=True)]
        caches = [output.past_key_values for output in outputs]
        began = time.perf_counter()
        token = sample(*(output.logits[:, -1, :width] for output in outputs), **options)
        seconds.append(time.perf_counter() - began)
        if token.item() in ends:
            break
        new.append(token)
        ids = token[:, None]
    return torch.cat(new), median(seconds)


def main(*names: str) -> None:
    """Decodes the prompt greedily, then sampled, in both ways."""
    models = [AutoModelForCausalLM.from_pretrained(name).eval() for name in names or EMBEDDED]
    tokenizer = AutoTokenizer.from_pretrained((names or EMBEDDED)[1])
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    end = models[1].generation_config.eos_token_id
    ends = end if isinstance(end, list) else [end]
    for options in ({"temperature": 0.0, "top_p": 1.0}, {"temperature": 0.7, "top_p": 0.9}):
        for sample in (six_lines, one_line):
            new, seconds = decode(models, ids, ends, sample, **options)
            text = tokenizer.decode(new, skip_special_tokens=True)
            print(f"{options['temperature']} {sample.__name__}: {1e6 * seconds:.0f} µs a token:{text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
