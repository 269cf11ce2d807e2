"""The cases of vllm_parity.py: requests, the engine that runs them, and the naive loop that they are compared with."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from engines.engine import counters, drafting, folders
from python_tests.helpers.naive import load, logits, up_scaled
from python_tests.helpers.served_trio import PROMPTS

BETAS = (None, 0.0, 0.5, 1.0, 2.5)
SMALL = {"dtype": "float32", "max_model_len": 256, "block_size": 32, "max_num_seqs": 16, "max_num_batched_tokens": 256}


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        count: requests.
        betas: each request has one of them; None is the checkpoint's own.
        options: of the engine, beside `SMALL`.
        shared: prompts begin with one of four long texts.
        devices: GPUs, where there are any.
        logprobs: compares the prompts' log-probabilities, not outputs.
    """

    shown: str
    count: int
    betas: tuple[float | None, ...] = BETAS
    options: Mapping[str, Any] = field(default_factory=dict)
    v2: bool = False
    shared: bool = False
    devices: int = 1
    logprobs: bool = False


def cases(checkpoint: Path, v2: bool) -> dict[str, Case]:
    """All cases by name. Under the V1 runner a request cannot have a beta beside speculation or prompt_logprobs.

    Args:
        v2: take vLLM's V2 model runner for all of them.
    """
    pressure = {"num_gpu_blocks_override": 24}  # too few for 16 requests at once
    tensor = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    drafts, own = drafting(checkpoint, 3), BETAS if v2 else (None,)
    found = {
        "betas": Case("mixed betas in one batch", 40),
        "many": Case("150 requests, mixed betas", 150),
        "pressure": Case("prefix caching, chunked prefill, preemption", 80, options=pressure, shared=True),
        "tensor": Case("tensor parallel 2", 16, options=tensor, devices=2),
        "ngram": Case("n-gram speculation", 16, own, drafts["ngram"]),
        "draft": Case("speculation, tuned drafts", 16, own, drafts["draft"]),
        "compile": Case("torch.compile", 40, options={"enforce_eager": False}),
        "logprobs": Case("prompt log-probabilities", 8 * len(own), own, logprobs=True),
    }
    if v2:
        return {name: Case(**{**vars(case), "v2": True}) for name, case in found.items()}
    found["v2"] = Case("V2 model runner, preemption, mixed betas", 30, options=pressure, v2=True, shared=True)
    found["v2-logprobs"] = Case("V2 model runner, prompt log-probabilities", 24, BETAS[::2], v2=True, logprobs=True)
    return found


def requests(case: Case, tokenizer: Any) -> list[tuple[list[int], float | None, int]]:
    """Prompts, betas and the most new tokens."""
    draw = random.Random(3)
    prompts = [tokenizer(text).input_ids for text in PROMPTS]
    words = [token for prompt in prompts for token in prompt]
    heads = [[draw.choice(words) for _ in range(draw.choice((64, 96, 128)))] for _ in range(4)]
    found = []
    for i in range(case.count):
        tail = draw.sample(words, draw.randrange(1, 40))
        ids = draw.choice(heads) + tail if case.shared else prompts[i % len(prompts)] if i < 40 else tail
        found.append((ids, case.betas[sum(divmod(i, len(prompts))) % len(case.betas)], draw.randrange(8, 60)))
    return found


def measure(case: Case, checkpoint: Path) -> dict[str, Any]:
    """Runs a case in this process: how many outputs differ, the largest difference, and counts of the engine."""
    from vllm import LLM, SamplingParams

    asked = requests(case, AutoTokenizer.from_pretrained(checkpoint))
    engine = LLM(str(checkpoint), disable_log_stats=False, **{"enforce_eager": True, **SMALL, **case.options})
    common = {"temperature": 0, "prompt_logprobs": 0} if case.logprobs else {"temperature": 0}
    params = [
        SamplingParams(**common, max_tokens=count, extra_args=None if beta is None else {"beta": beta})
        for _, beta, count in asked
    ]
    answers = engine.generate([{"prompt_token_ids": ids} for ids, _, _ in asked], params, use_tqdm=False)
    torch.set_num_threads(1)
    models = [load(folder.parent, [folder.name])[0] for folder in map(Path, folders(checkpoint).values())]
    ends = GenerationConfig.from_pretrained(checkpoint).eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    own = engine.llm_engine.model_config.hf_config.mixing_method.number("beta")
    found: dict[str, Any] = {"requests": len(asked)}
    pairs = list(zip(asked, answers, strict=True))
    mixtures = [up_scaled(own if beta is None else beta) for _, beta, _ in asked]
    if case.logprobs:
        off = [_off(models, m, ids, x.prompt_logprobs) for m, ((ids, _, _), x) in zip(mixtures, pairs, strict=True)]
        return {**found, "largest_difference": max(off)}
    texts = [list(x.outputs[0].token_ids) for x in answers]
    found["differ"] = sum(
        not follows(models, mixture, ids, text, count, ends)
        for mixture, (ids, _, count), text in zip(mixtures, asked, texts, strict=True)
    )
    found["tokens"] = sum(map(len, texts))
    found["cached"] = sum(x.num_cached_tokens or 0 for x in answers)
    return {**found, **counters(engine)}


def follows(models: Any, mixture: Any, ids: list[int], text: list[int], count: int, ends: list[int]) -> bool:
    """True where the text is the naive greedy loop's: each token is the likeliest after those before it.

    One forward pass of each model over the whole text gives every step of that loop.
    """
    found = mixture(*logits(models, ids + text))[len(ids) - 1 : -1].argmax(-1).tolist()
    ended = bool(text) and (len(text) == count or text[-1] in ends)
    return bool(found == text and ended and not set(text[:-1]) & set(ends))


def _off(models: Any, mixture: Any, ids: list[int], given: Any) -> float:
    wanted = mixture(*logits(models, ids)).log_softmax(-1)
    differences = [abs(given[i][ids[i]].logprob - float(wanted[i - 1, ids[i]])) for i in range(1, len(ids))]
    return max(differences, default=0.0)
