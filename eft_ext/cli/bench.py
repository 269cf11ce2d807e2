"""`eft bench`: how long a step takes on this machine, beside what generation loops run without it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from enum import Enum
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eft_ext._json import dumps
from eft_ext.cli import options as o

if TYPE_CHECKING:
    from torch import Tensor

NAME = "bench"
_VOCAB, _LOGITS = 2**31 - 1, 2**40  # ids are int32; more logits than any memory holds
_OPTIONS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "T .7, top-p .9": {"temperature": 0.7, "top_p": 0.9},
    "and top-k 50, min-p .05": {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
}


class Dtype(str, Enum):
    """Dtypes of the logits."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def run(
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 128256,
    rows: Annotated[list[int] | None, typer.Option(help="May be given several times. Default: 1 and 8.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Type of the logits.")] = Dtype.bfloat16,
    device: Annotated[str, typer.Option(help="cpu, or cuda where torch sees one.")] = "cpu",
    backend: Annotated[str, typer.Option(help="auto, cpu, cuda or triton; see eft env.")] = "auto",
    seconds: Annotated[float, typer.Option(help="Seconds to measure each figure for.")] = 0.5,
    as_json: o.Json = False,
) -> None:
    """Time `fused_step` on three models' logits, transformers' chain for the same, and reading the logits once.

    Medians of calls as a loop makes them. Nothing else should run meanwhile; what carries over to other machines is
    the ratios. The project's benchmarks/ have a script for each question beyond this one.

    Examples:

        eft bench

        eft bench --rows 1 --rows 32 --vocab 151936 --dtype float32 --json
    """
    asked = rows or [1, 8]
    for name, number in (("--vocab", vocab), *(("--rows", each) for each in asked)):
        if number < 1:
            raise ValueError(f"{name}: expected a number at least 1, got {number}")
        largest = _VOCAB if name == "--vocab" else _LOGITS // vocab
        if number > largest:
            raise ValueError(f"{name}: expected a number at most {largest:,}, got {number}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"--seconds: expected a positive number, got {seconds}")
    _check_backend(backend)
    found = _measured(vocab, asked, dtype.value, _device(device), backend, seconds)
    if as_json:
        typer.echo(dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("rows", "options", "transformers' chain", "fused_step", "faster", "reading once", box=None)
    for r in found["results"]:
        times = [f"{r[name]:,.0f} µs" for name in ("chain_us", "fused_us", "read_us")]
        table.add_row(str(r["rows"]), r["options"], *times[:2], f"{r['chain_us'] / r['fused_us']:.0f}x", times[2])
    Console().print(table)


def _check_backend(name: str) -> None:
    from eft_ext.ops.backends.registry import NAMES, find

    if name in NAMES and not (found := find(name)).available:
        raise ValueError(f"--backend: {name!r} is not usable here: {found.reason}; to enable it: {found.remedy}")


def _device(name: str) -> Any:
    import torch

    if name not in ("cpu", "cuda"):
        raise ValueError(f"--device: expected cpu or cuda, got {name}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: torch sees no CUDA device here (eft env says more)")
    return torch.device(name)


def _measured(vocab: int, asked: list[int], dtype: str, device: Any, backend: str, seconds: float) -> dict[str, Any]:
    import torch
    from rich.console import Console
    from rich.progress import track

    from eft_ext import fused_step
    from eft_ext.cli.environment import describe

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    results = []
    grid = [(batch, name) for batch in asked for name in _OPTIONS]
    errors = Console(stderr=True)
    for batch, name in track(grid, "measuring", console=errors, transient=True, disable=not errors.is_terminal):
        logits, options = _logits(batch, vocab, getattr(torch, dtype), device), _OPTIONS[name]
        chain, position = _chain(options), iter(range(1 << 40))

        def step(logits: Any = logits, options: Any = options, position: Any = position) -> Any:
            return fused_step(*logits, seed=1, position=next(position), backend=backend, **options)

        times = {
            "fused_us": _median_us(step, seconds, wait),
            "chain_us": _median_us(lambda x=logits, f=chain: f(*x), seconds, wait),  # type: ignore[misc]
            "read_us": _median_us(lambda x=logits: [each.sum() for each in x], seconds, wait),  # type: ignore[misc]
        }
        results.append({"rows": batch, "options": name, **times})
    about = {"vocab": vocab, "dtype": dtype, "device": str(device), "threads": torch.get_num_threads()}
    here = describe()
    return {**about, "cpu": here["cpu"]["name"], "gpus": here["gpus"], "versions": here["versions"], "results": results}


def _logits(batch: int, vocab: int, dtype: Any, device: Any) -> list[Tensor]:
    """Three models that agree on most of a Zipf-like ranking: a head over a broad floor."""
    import torch

    make = torch.Generator().manual_seed(0)
    zipf = -1.2 * torch.log(torch.arange(1, vocab + 1).float())[torch.randperm(vocab, generator=make)]
    return [(zipf + 0.5 * torch.randn(batch, vocab, generator=make)).to(device, dtype) for _ in range(3)]


def _chain(options: dict[str, float]) -> Callable[..., Tensor]:
    """The chain that loops run without the step: log-softmaxes, a sum, transformers' warpers, softmax, multinomial."""
    import torch
    import transformers as hf

    makers = {
        "temperature": hf.TemperatureLogitsWarper,
        "top_k": hf.TopKLogitsWarper,
        "top_p": hf.TopPLogitsWarper,
        "min_p": hf.MinPLogitsWarper,
    }
    greedy = options["temperature"] == 0
    warpers = [] if greedy else [makers[name](value) for name, value in options.items()]

    def chain(*logits: Tensor) -> Tensor:
        large, tuned, base = (torch.log_softmax(x.float(), dim=-1) for x in logits)
        scores: Any = large + (tuned - base)
        for warper in warpers:
            scores = warper(None, scores)
        if greedy:
            return torch.argmax(scores, dim=-1)
        return torch.multinomial(torch.softmax(scores, dim=-1), 1).squeeze(-1)

    return chain


def _median_us(call: Callable[[], object], seconds: float, wait: Callable[[], object]) -> float:
    call()
    wait()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        wait()
        times.append(1e6 * (time.perf_counter() - start))
    return median(times)
