"""Does recording slow a training run down, and how fast are its statistics?

    python benchmarks/bench_track.py --json benchmarks/results/track-cpu.json

First the statistics of 256 response tokens over vocabularies of real size. The baseline is the same in PyTorch, the
floor torch's sum of the logits, which reads them once. Then a whole record of the demonstration's probes: its forward
pass alone is the floor, and the baseline is the training between two records.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from common.machine import describe
from common.timing import median_us
from rich.console import Console
from rich.table import Table

from eft_ext import _json
from eft_ext.demo.dynamics.data import batches, preferences, probes
from eft_ext.demo.trio import load_trio
from eft_ext.dynamics import SFT, Responses, Tracker
from eft_ext.dynamics.forward import response_logits, token_logits
from eft_ext.dynamics.statistics import score_tokens, token_statistics


def statistics(seconds: float) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for vocab in (32000, 128256):
        for dtype in (torch.bfloat16, torch.float32):
            generator = torch.Generator().manual_seed(0)
            logits = (2 * torch.randn(256, vocab, generator=generator)).to(dtype)
            targets = torch.randint(vocab, (256,), generator=generator)
            times = {
                "fused": median_us(partial(score_tokens, logits, targets), seconds),
                "plain": median_us(partial(token_statistics, logits, targets), seconds),
                "read": median_us(logits.sum, seconds),
            }
            rows.append({"vocab": vocab, "dtype": str(dtype).removeprefix("torch."), "tokens": 256, **times})
    return rows


def recording(seconds: float) -> dict[str, float]:
    trio = load_trio()
    rows = preferences(trio.world, "format", 0)
    watched = probes(trio.world, rows, 24, "format", 0)
    texts = [(p.prompt, p.chosen) for p in rows]
    model, tokenizer = trio.base, trio.tokenizer
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4)
    updates = batches(texts, 32, 0)

    def step() -> None:
        for batch in islice(updates, 1):
            update = Responses.from_text(tokenizer, batch)
            SFT()(response_logits(model, update), update).backward()
            optimiser.step()
            optimiser.zero_grad()

    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker(watched, tokenizer, Path(folder) / "run", batch_size=64)
        responses = tracker.responses

        @torch.no_grad()
        def forward() -> None:
            for batch in responses.batches(64):
                token_logits(model, batch)

        return {
            "responses": len(responses),
            "tokens": len(responses.targets),
            "step": median_us(step, seconds),
            "record": median_us(lambda: tracker.record(model, 0), seconds),
            "forward": median_us(forward, seconds),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    args = parser.parse_args()
    measured = statistics(args.seconds)
    torch.set_num_threads(1)  # as the tutorial trains: layers this small take longer to share than to compute
    whole = recording(3 * args.seconds)
    console = Console()
    table = Table("vocabulary", "dtype", "fused, ms", "PyTorch, ms", "faster", "sum, ms", "x sum")
    for r in measured:
        fused, pytorch, read = (float(str(r[name])) / 1000 for name in ("fused", "plain", "read"))
        figures = (f"{fused:.2f}", f"{pytorch:.1f}", f"{pytorch / fused:.1f}x", f"{read:.2f}", f"{fused / read:.1f}")
        table.add_row(str(r["vocab"]), str(r["dtype"]), *figures)
    console.print(table)
    record, forward, step = (whole[name] / 1000 for name in ("record", "forward", "step"))
    console.print(
        f"One record of {whole['responses']} responses ({whole['tokens']} tokens): {record:.0f} ms, of which the "
        f"forward passes alone {forward:.0f} ms; a training step of 32 rows: {step:.0f} ms. Recording every 20 steps "
        f"adds {100 * record / (20 * step):.0f} %, every 100 steps {record / step:.0f} %."
    )
    if args.json:
        about = {"machine": describe(), "statistics": measured, "recording": whole}
        _json.write(args.json, about, indent=2)


if __name__ == "__main__":
    main()
