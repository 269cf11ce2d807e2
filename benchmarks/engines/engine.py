"""An engine of vLLM in this process for bench_vllm.py, passes over its requests, and counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import common  # noqa: F401
import torch
from torch import Tensor

from eft_ext.hf.checkpoint.read import read

MODES = {"greedy": 0.0, "sampled": 1.0}  # temperatures
LENGTH = 256  # of a text at most: the shipped models' positions


def start(model: str | Path, args: Any, **options: Any) -> Any:
    """An engine of vLLM in this process, without a prefix cache: passes repeat their prompts."""
    from vllm import LLM

    shared = {"enforce_eager": not torch.cuda.is_available(), "max_model_len": LENGTH, "enable_prefix_caching": False}
    shared |= {"dtype": args.dtype, "max_num_seqs": args.batch, "seed": 0}
    # Whole prompts at once: vLLM 0.32 on a CPU fails where a request with a seed has a prompt in chunks.
    shared["max_num_batched_tokens"] = max(2048, args.batch * LENGTH)
    found = LLM(str(model), disable_log_stats=False, **{**shared, **options})
    if not torch.cuda.is_available():
        _mend_temperatures()
    return found


def _mend_temperatures() -> None:
    """Replaces a function of vLLM 0.32, which on a CPU returns memory that nobody wrote where it gets no int64.

    Drafts would be accepted by other temperatures than the requests', which `eft_ext` refuses.
    """
    from vllm.v1.sample import rejection_sampler

    from eft_ext.serving.vllm import parameters

    for name, served in list(parameters._served.items()):
        parameters.serve(name, replace(served, only_greedy=False))

    def expand(x: Tensor, ends: Tensor, count: int, replace_from: int = 0, replace_to: int = 0) -> Tensor:
        lengths = ends.diff(prepend=ends.new_zeros(1))
        return torch.where(x == replace_from, replace_to, x).to(x.dtype).repeat_interleave(lengths, output_size=count)

    rejection_sampler.expand_batch_to_tokens = expand


def generate(engine: Any, ids: list[list[int]], new: int, temperature: float, ends: bool = False) -> int:
    """Generates for all prompts and returns the number of new tokens.

    Args:
        ends: stop at EOS.
    """
    from vllm import SamplingParams

    shared = {"temperature": temperature, "max_tokens": new, "ignore_eos": not ends, "detokenize": False}
    params = [SamplingParams(**shared, seed=i if temperature else None) for i in range(len(ids))]
    answers = engine.generate([{"prompt_token_ids": each} for each in ids], params, use_tqdm=False)
    return sum(len(each.outputs[0].token_ids) for each in answers)


def passes(run: Callable[[], int], count: int) -> dict[str, Any]:
    """Tokens of a pass, and medians of wall and CPU seconds; the first pass warms up."""
    wall, cpu, tokens = [], [], run()
    for _ in range(count):
        start, start_cpu = time.perf_counter(), time.process_time()
        tokens = run()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return {"tokens": tokens, "wall_s": median(wall), "cpu_s": median(cpu), "all_cpu_s": cpu}


def folders(checkpoint: Path) -> dict[str, str]:
    """Each model's folder by its name."""
    return {name: place.source for name, place in read(str(checkpoint), {}).places.items()}


def drafting(checkpoint: Path, k: int) -> dict[str, dict[str, Any]]:
    """Both ways of drafting k tokens, as an engine's options."""
    ngram = {"method": "ngram", "num_speculative_tokens": k, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    draft = {"method": "draft_model", "model": folders(checkpoint)["tuned"], "num_speculative_tokens": k}
    # Drawn from tuned's own probabilities, more drafts are accepted at a temperature than the likeliest tokens are.
    draft["draft_sample_method"] = "probabilistic"
    return {"ngram": {"speculative_config": ngram}, "draft": {"speculative_config": draft}}


def counters(engine: Any) -> dict[str, int]:
    """vLLM's counts of preemptions and, with speculation, of drafts."""
    names = {
        "preemptions": "vllm:num_preemptions",
        "drafts": "vllm:spec_decode_num_drafts",
        "drafted": "vllm:spec_decode_num_draft_tokens",
        "accepted": "vllm:spec_decode_num_accepted_tokens",
    }
    values: dict[str, int] = {}
    for metric in engine.get_metrics():
        if hasattr(metric, "value"):
            values[metric.name] = values.get(metric.name, 0) + int(metric.value)
    return {name: values[full] for name, full in names.items() if full in values}
