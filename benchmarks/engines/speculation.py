"""bench_vllm.py --speculation: the trio at several betas, with tokens drafted by tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common  # noqa: F401
from transformers import AutoTokenizer

from eft_ext.demo.trio import load_trio
from engines.engine import MODES, counters, drafting, generate, passes, start

BETAS = (0.5, 1.0, 1.5)


def texts(checkpoint: Path, count: int) -> list[list[int]]:
    """Questions of the demonstration's world, as random prompts would mislead drafts."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    questions = load_trio().world.questions("heldout")
    return [tokenizer(questions[i % len(questions)].prompt).input_ids for i in range(count)]


def speculating(k: int, args: Any) -> dict[str, Any]:
    """The trio with k drafted tokens, in both modes at each beta: tokens, seconds and accepted drafts.

    Under vLLM's V1 runner no request has a beta beside drafts, so the model itself gets it.
    """
    engine = start(args.checkpoint, args, **(drafting(args.checkpoint, k)["draft"] if k else {}))
    models: list[Any] = []
    engine.apply_model(models.append)
    ids = texts(args.checkpoint, args.batch)
    found: dict[str, Any] = {}
    for beta in BETAS:
        models[0].method = models[0].method.mapped(lambda *_, beta=beta: beta)
        for mode, temperature in MODES.items():
            before = counters(engine)
            own = passes(lambda t=temperature: generate(engine, ids, args.new, t, ends=True), args.passes)
            own["speculation"] = {name: n - before.get(name, 0) for name, n in counters(engine).items()}
            found.setdefault(str(beta), {})[mode] = own
    return found
