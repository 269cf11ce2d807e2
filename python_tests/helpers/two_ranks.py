"""The script that two processes run for test_distributed.py: the large model sharded, tokens written to a file.

torchrun --nproc-per-node 2 two_ranks.py FOLDER
"""

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from eft_ext.decoding import sampler
from eft_ext.hf import EmulatedModel
from eft_ext.ops import prepared_step


def timed(model: EmulatedModel, ids: torch.Tensor, options: dict, late: bool) -> list:
    """Tokens of the engine and of the loop that asks criteria, on a rank whose clock runs a million times as fast."""
    real = time.time
    time.time = (lambda: real() * 1e6) if late else real
    try:
        ways = ({}, {"repetition_penalty": 1.3})
        return [model.generate(ids, max_time=600.0, **options, **way).tolist() for way in ways]
    finally:
        time.time = real


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    large = AutoModelForCausalLM.from_pretrained(folder / "large", tp_plan="auto")
    tuned, base = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("tuned", "base"))
    model = EmulatedModel(large.eval(), tuned.eval(), base.eval())
    steps = []
    for module in (prepared_step, sampler):
        original = module.fused_mix
        module.fused_mix = lambda *a, original=original, **k: steps.append(1) or original(*a, **k)
    ids = torch.tensor([[0, 5, 6], [7, 8, 9]])
    options = dict(attention_mask=(ids > 0).long(), max_new_tokens=12, do_sample=True, top_k=0, seed=1)
    found = {
        "tokens": model.generate(ids, **options).tolist(),
        "plan": str(model.plan(ids)),
        "drew": bool(steps),
        "eager": model.generate(ids, tier="eager", **options).tolist(),
        "processed": model.generate(ids, repetition_penalty=1.3, **options).tolist(),
        # Each rank's clock has run out once, and then rank 0's alone counts.
        **{f"late_{late}": timed(model, ids, options, rank == late) for late in range(2)},
        # Data parallelism: whole models, other prompts and lengths on each rank.
        "own": EmulatedModel(tuned, base, base).generate([[5 + rank]], max_new_tokens=3 + rank).tolist(),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
