"""The engines of bench_vllm.py, each measured in its own process: passes over the same requests."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import common  # noqa: F401
import torch
from transformers import AutoConfig

from engines.engine import MODES, counters, drafting, folders, generate, passes, start
from engines.shares import shares


def prompts(checkpoint: Path, count: int) -> list[list[int]]:
    """Random tokens, 16 to 64 to a prompt."""
    vocab = AutoConfig.from_pretrained(checkpoint).vocab_size
    draw = random.Random(0)
    return [[draw.randrange(5, vocab) for _ in range(draw.randint(16, 64))] for _ in range(count)]


def in_vllm(part: str, args: Any) -> dict[str, Any]:
    """The trio, one of its models, or the trio with drafts, in both modes; with the trio the parts of a step too."""
    alone = part in ("large", "tuned", "base")
    options = drafting(args.checkpoint, args.k).get(part, {})
    engine = start(folders(args.checkpoint)[part] if alone else args.checkpoint, args, **options)
    ids = prompts(args.checkpoint, args.batch)
    found: dict[str, Any] = {}
    for mode, temperature in MODES.items():
        before = counters(engine)
        found[mode] = passes(lambda t=temperature: generate(engine, ids, args.new, t), args.passes)
        found[mode]["speculation"] = {name: n - before.get(name, 0) for name, n in counters(engine).items()}
        if part == "trio":
            found[mode]["shares"] = shares(engine, lambda t=temperature: generate(engine, ids, args.new, t))
    return found


def in_batch(args: Any) -> dict[str, Any]:
    """The trio in eft_ext's own batch engine."""
    from eft_ext import EmulatedModel

    torch.set_num_threads(1)
    options = {} if args.dtype == "auto" else {"dtype": getattr(torch, args.dtype)}
    model = EmulatedModel.from_pretrained(args.checkpoint, **options)
    if torch.cuda.is_available():
        model = model.to("cuda")
    ids = prompts(args.checkpoint, args.batch)
    shared = {"max_new_tokens": args.new, "batch_size": args.batch, "eos_token_id": 10**6, "pad_token_id": 0}
    found = {}
    for mode, temperature in MODES.items():
        own: dict[str, Any] = {"do_sample": False}
        if temperature:
            own = {"do_sample": True, "temperature": temperature, "top_k": 0, "seed": list(range(args.batch))}

        def run(own: dict[str, Any] = own) -> int:
            return sum(map(len, model.generate_batch(ids, **shared, **own)))

        found[mode] = passes(run, args.passes)
    return found
