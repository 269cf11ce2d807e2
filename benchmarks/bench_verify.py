"""Is `fused_verify` faster than speculative sampling in PyTorch, and than as many ordinary steps?

    python benchmarks/bench_verify.py       # writes benchmarks/results/verify-cpu.json

One thread of the CPU, one row. The baselines are the PyTorch that people write, and k + 1 ordinary steps on the same
logits. No floor is measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common.logit_rows import make
from common.machine import describe
from common.timing import median_us
from rich.console import Console
from rich.table import Table
from torch import Tensor

from eft_ext import _json
from eft_ext.ops import fused_mix, fused_verify

EFT = [1.0, 1.0, -1.0]
SEEDS = torch.ones(1, dtype=torch.int64)


def pytorch(drafts: Tensor, logits: list[Tensor]) -> Tensor:
    """Decides one row as people write it: with [k + 1, V] tensors throughout."""
    z = logits[0].float() + logits[1].float() - logits[2].float()
    p, q = z[0].softmax(-1), logits[1][0, :-1].float().softmax(-1)
    at = torch.arange(drafts.shape[1])
    stands = torch.rand(drafts.shape[1]) < p[at, drafts[0]] / q[at, drafts[0]]
    n = int(stands.long().cumprod(0).sum())
    last = p[n] if n == drafts.shape[1] else (p[n] - q[n]).clamp(min=0)
    return torch.cat([drafts[0, :n], torch.multinomial(last, 1)])


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    table = Table("V", "k", "drafts", "verify, µs", "k+1 steps, µs", "PyTorch, µs", "ratio")
    found = []
    for vocab in (32000, 128256):
        for k in (4, 8):
            logits = [x.view(1, k + 1, vocab) for x in make("lm", k + 1, vocab, torch.bfloat16, 3)]
            top = logits[1][:, :k].float().argmax(-1)
            worst = logits[0][:, :k].float().argmin(-1)
            steps = [[x[:, i] for x in logits] for i in range(k + 1)]
            ordinary = median_us(lambda s=steps: [fused_mix(x, EFT, seed=SEEDS, position=0) for x in s], 0.6)
            for name, drafts, mixed in (("all stand", top, [logits[1]] * 3), ("first rejected", worst, logits)):
                call = (drafts, logits[1][:, :k], mixed, EFT)
                fused = median_us(lambda c=call: fused_verify(*c, seed=SEEDS, position=0), 0.6)
                usual = median_us(lambda d=drafts, m=mixed: pytorch(d, m), 0.6)
                row = {
                    "vocab": vocab,
                    "k": k,
                    "drafts": name,
                    "fused_us": fused,
                    "steps_us": ordinary,
                    "plain_us": usual,
                }
                found.append(row)
                numbers = (f"{x:.0f}" for x in (fused, ordinary, usual))
                table.add_row(str(vocab), str(k), name, *numbers, f"{usual / fused:.0f}")
    Console().print(table)
    path = Path(__file__).parent / "results" / "verify-cpu.json"
    _json.write(path, {"machine": describe(), "rows": found}, indent=1)


if __name__ == "__main__":
    main()
