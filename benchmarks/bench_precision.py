"""May one of the three models, or all, be bf16 or int8 on a CPU: what is saved, and how far does the mixture move?

    python benchmarks/bench_precision.py --json benchmarks/results/precision-cpu.json

The baseline is all models in fp32, in the same run. "int8" is `torch.ao.quantization.quantize_dynamic`; "int8
weights" is torchao's `Int8WeightOnlyConfig`, if torchao is there. Speed is that of the models' passes over static
caches, one after another on one thread: processor time, medians. The step itself takes under 0.1 ms. Error is
KL(mixture in fp32 || mixture) in nats per token, on the answers of the fp32 mixture to held-out questions of the
demonstration, and the share of tokens at which both have the same likeliest token. No floor is measured.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common.machine import describe
from common.trios import TRIOS, load
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from eft_ext import _json
from eft_ext.decoding import StaticCacheModel
from eft_ext.demo.evaluate import teacher_forced
from eft_ext.demo.trio import EFT, GREEDY, load_trio

ROLES = {"all": (0, 1, 2), "large": (0,), "tuned": (1,), "base": (2,), "tuned and base": (1, 2)}
FP32, BF16, INT8, WEIGHTS = "fp32", "bf16", "int8", "int8 weights"


def converted(model: Any, precision: str) -> Any:
    """A copy of an fp32 model in another precision."""
    model = copy.deepcopy(model)
    if precision == BF16:
        return model.to(torch.bfloat16)
    if precision == INT8:
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    if precision == WEIGHTS:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(model, Int8WeightOnlyConfig())
    return model


def bytes_of(model: nn.Module) -> int:
    """Bytes of all weights, shared ones once."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    packed = [m.weight() for m in model.modules() if isinstance(m, torch.ao.nn.quantized.dynamic.Linear)]
    return sum(map(_bytes, tensors)) + sum(w.numel() for w in packed)


def _bytes(tensor: Tensor) -> int:
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


@torch.inference_mode()
def milliseconds(models: Sequence[Any], tokens: int) -> list[float]:
    """One token's pass of each, once all are traced. They take turns."""
    cached = [StaticCacheModel(model, capacity=256) for model in models]
    for one in cached:
        one.prefill(torch.full((1, 16), 5))
    new, times = torch.full((1, 1), 7), [list[float]() for _ in cached]
    for turn in range(68 + tokens):  # 64 before the trace
        for one, taken in zip(cached, times, strict=True):
            start = time.process_time()
            one.forward(new)
            if turn >= 68:
                taken.append(1e3 * (time.process_time() - start))
    return [statistics.median(taken) for taken in times]


@torch.inference_mode()
def logits_of(model: Any, ids: Tensor, predicts: Tensor) -> Tensor:
    return torch.cat([model(x).logits[p].double() for x, p in zip(ids.split(25), predicts.split(25), strict=True)])


def errors(exact: list[Tensor], reduced: list[Tensor], beta: float = 1.0) -> dict[str, float]:
    """The error of a mixture of `reduced` logits [tokens, V] beside one of `exact` ones."""
    p, q = ((z[0] + beta * (z[1] - z[2])).log_softmax(-1) for z in (exact, reduced))
    kl = (p.exp() * (p - q)).sum(-1)
    same = (p.argmax(-1) == q.argmax(-1)).double().mean()
    return {"kl_mean": float(kl.mean()), "kl_p99": float(kl.quantile(0.99)), "same_token": float(same)}


def measure(name: str, precisions: list[str], tokens: int, questions: int) -> list[dict[str, Any]]:
    models = load(name, torch.float32, "cpu")
    ids = predicts = None
    if name == "demo":
        demo = load_trio()
        prompts = [q.prompt for q in demo.held_out(questions, 0, 0)[0]]
        ids, predicts = teacher_forced(prompts, demo.generate(EFT, prompts, GREEDY), demo.tokenizer)
    about: dict[str, list[tuple[float, int, Any]]] = {precision: [] for precision in (FP32, *precisions)}
    for model in models:
        reduced = [converted(model, precision) for precision in about]
        for precision, one, taken in zip(about, reduced, milliseconds(reduced, tokens), strict=True):
            logits = None if ids is None or predicts is None else logits_of(one, ids, predicts)
            about[precision].append((taken, bytes_of(one), logits))
    rows = []
    for role, precision in [("none", FP32), *((role, p) for p in precisions for role in ROLES)]:
        taken = [about[precision if k in ROLES.get(role, ()) else FP32][k] for k in range(3)]
        row = {"trio": name, "role": role, "precision": precision}
        row |= {"tokens_per_second": 1e3 / sum(t[0] for t in taken), "mib": sum(t[1] for t in taken) / 2**20}
        if ids is not None:
            exact, reduced = [x[2] for x in about[FP32]], [t[2] for t in taken]
            row |= errors(exact, reduced)
            row["kl_mean_beta_2"] = errors(exact, reduced, beta=2.0)["kl_mean"]
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("trio", "precision", "of", "tokens/s", "MiB", "KL, mean", "KL, 99 %", "same token", "KL, β = 2")
    for r in rows:
        told = []
        if "kl_mean" in r:
            told = [f"{r['kl_mean']:.2e}", f"{r['kl_p99']:.2e}", f"{r['same_token']:.2%}", f"{r['kl_mean_beta_2']:.2e}"]
        table.add_row(r["trio"], r["precision"], r["role"], f"{r['tokens_per_second']:.1f}", f"{r['mib']:.1f}", *told)
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trios", nargs="+", choices=list(TRIOS), default=["demo", "realistic"])
    parser.add_argument("--tokens", type=int, default=100, help="that a pass is timed for, in turns")
    parser.add_argument("--questions", type=int, default=100, help="held-out ones")
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    precisions = [BF16, INT8, *[WEIGHTS] * (importlib.util.find_spec("torchao") is not None)]
    rows = [row for name in args.trios for row in measure(name, precisions, args.tokens, args.questions)]
    show(rows)
    if args.json:
        _json.write(args.json, {"machine": describe(), "results": rows}, indent=1)


if __name__ == "__main__":
    main()
