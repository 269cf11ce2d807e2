"""Is one grouped forward pass of tuned and base (stacked weights under vmap) faster than two passes, on the CPU?

    python benchmarks/bench_pair.py --json benchmarks/results/pair-cpu.json
    python benchmarks/bench_pair.py --adapter --json benchmarks/results/pair-adapter-cpu.json

    python benchmarks/bench_pair.py --at-once
    python benchmarks/bench_pair.py --device cuda --trios 0.5B 1B --seconds 20

`--at-once` asks whether two threads should share each pass, or take a model each, as they do. It wants two idle cores:
medians of both ways in turns of ten, the baseline first.
`--device cuda` asks whether the pair should run on two streams, as it does, one after another, or with stacked weights.
`--adapter` asks it of a LoRA adapter on its base, which share their weights: the rows of both in one pass, as the
engine runs them, beside a pass with the adapter on and one with it off.

The baseline is one pass after the other, eager and "recorded": as the engine runs a model after its first steps. No
floor is measured. All read static caches. Medians of turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common.machine import describe
from common.trios import SIZES, load, random_model
from gpu.pair import times_of
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import functional_call, stack_module_state

from eft_ext import _json
from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.static_cache.forward import Forward
from eft_ext.decoding.static_cache.joint import JointPass
from eft_ext.hf.members import Member
from eft_ext.hf.runners.joint import JointSwitch


def inputs_of(model: Any, rows: int) -> tuple[Any, ...]:
    feeder = StaticCacheModel(model, capacity=64)
    device = next(model.parameters()).device
    feeder.prefill(torch.full((rows, 40), 5, device=device))
    feeder.reserve(1)
    feeder.set_max_length(41)
    bases, columns, *stored = feeder._storage.inputs(feeder.longest)
    copies = [tuple(x.clone() for x in given) for given in (bases, columns, stored)]  # out of inference mode
    return (torch.full((rows, 1), 7, device=device), feeder.lengths.clone(), *copies[:2], *copies[2])


def grouped(pair: list[Any], inputs: list[tuple[Any, ...]], windows: list[int | None]) -> Callable[[], Tensor]:
    """Returns one pass of both models: every operator runs once, with the model as first dimension."""
    weights, buffers = stack_module_state(pair)
    weights = {name: x.detach() for name, x in weights.items()}
    forward = Forward(pair[0], windows)
    state = {f"model.{name}": x for name, x in {**weights, **buffers}.items()}
    tokens, lengths, bases, columns, *_ = inputs[0]
    stored = tuple(torch.stack(both) for both in zip(*(given[4:] for given in inputs), strict=True))

    def one(state: dict[str, Tensor], *stored: Tensor) -> Tensor:
        logits: Tensor = functional_call(forward, state, (tokens, lengths, bases, columns, *stored))
        return logits

    return lambda: torch.vmap(one)(state, *stored)


@torch.no_grad()
def measure_cuda(size: str, rows: int, rounds: int, dtype: torch.dtype) -> dict[str, Any]:
    pair = [random_model(size, SIZES[size][-1], dtype, "cuda").requires_grad_(False) for _ in range(2)]
    inputs = [inputs_of(model, rows) for model in pair]
    windows: list[int | None] = [None] * pair[0].config.num_hidden_layers
    forwards = [Forward(model, windows) for model in pair]
    works = [partial(f, *given) for f, given in zip(forwards, inputs, strict=True)]
    times = times_of(works, grouped(pair, inputs, windows), rounds)
    line = ", ".join(f"{way} {t / 1e3:.2f} ms" if isinstance(t, float) else f"{way}: {t}" for way, t in times.items())
    print(f"pair: {size} B={rows}: {line}", flush=True)  # at once, since a stage of gpu_all.py may be ended
    return {"size": size, "rows": rows, **times}


@torch.no_grad()
def measure(name: str, rows: int, rounds: int) -> dict[str, Any]:
    pair = load(name, torch.float32, "cpu")[1:]
    for model in pair:
        model.requires_grad_(False)
    inputs = [inputs_of(model, rows) for model in pair]
    windows: list[int | None] = [None] * pair[0].config.num_hidden_layers
    forwards = [Forward(model, windows) for model in pair]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traces = [
            torch.jit.trace(f, given, check_trace=False, strict=False)
            for f, given in zip(forwards, inputs, strict=True)
        ]
    together = grouped(pair, inputs, windows)
    ways: dict[str, Callable[[], Any]] = {
        "two, recorded": lambda: [trace(*given) for trace, given in zip(traces, inputs, strict=True)],
        "two, eager": lambda: [f(*given) for f, given in zip(forwards, inputs, strict=True)],
        "grouped, eager": together,
    }
    for ours, other in zip(together(), ways["two, eager"](), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-3)
    return {"trio": name, "rows": rows, **medians(ways, rounds)}


@torch.no_grad()
def measure_at_once(size: str, rows: int, rounds: int) -> dict[str, Any]:
    pair = [random_model(size, 32000, torch.float32, "cpu").requires_grad_(False) for _ in range(2)]
    inputs = [inputs_of(model, rows) for model in pair]
    windows: list[int | None] = [None] * pair[0].config.num_hidden_layers
    traces = [
        torch.jit.trace(Forward(m, windows), x, check_trace=False, strict=False)
        for m, x in zip(pair, inputs, strict=True)
    ]

    def one(k: int) -> None:
        with torch.inference_mode():
            traces[k](*inputs[k])

    times: dict[str, list[float]] = {"two threads for each in turn": [], "a thread for each at once": []}
    with ThreadPoolExecutor(1) as other:

        def both() -> None:
            done = other.submit(one, 1)
            one(0)
            done.result()

        ways = {"two threads for each in turn": (2, lambda: (one(0), one(1))), "a thread for each at once": (1, both)}
        for _ in range(max(1, rounds // 10)):
            for name, (threads, way) in ways.items():
                torch.set_num_threads(threads)  # of this thread
                other.submit(torch.set_num_threads, threads).result()
                way()
                for _ in range(10):
                    start = time.perf_counter()
                    way()
                    times[name].append(1e6 * (time.perf_counter() - start))
    return {"pair of": size, "rows": rows, **{name: statistics.median(each) for name, each in times.items()}}


def medians(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Microseconds of each way, run in turns; of one thread those of the processor, which others do not disturb."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways.values():
        for _ in range(10):
            way()
    for _ in range(rounds):
        for key, way in ways.items():
            start = clock()
            way()
            times[key].append(1e6 * (clock() - start))
    return {key: statistics.median(values) for key, values in times.items()}


@torch.inference_mode()
def measure_adapter(targets: list[str] | str, rows: int, rounds: int) -> dict[str, Any]:
    import peft

    tuned = peft.get_peft_model(
        random_model("36M", 32000, torch.float32, "cpu"),
        peft.LoraConfig(r=8, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM"),
    ).eval()
    members = [Member("tuned", tuned), Member("base", tuned, without_adapter=True)]
    switches = [member.switch() for member in members]
    apart: list[Any] = [StaticCacheModel(tuned, capacity=64, switch=switch) for switch in switches]
    joint = JointPass(tuned, ["tuned", "base"], switches, JointSwitch(members), 64)
    for model in (*apart, *joint.models):
        model.prefill(torch.full((rows, 40), 5))
        model.set_max_length(41)
    tokens = torch.full((rows, 1), 7)
    ways: dict[str, Callable[[], Any]] = {
        "adapter on, then off": lambda: [model.run(tokens) for model in apart],
        "rows of both in one pass": lambda: joint.run(tokens),
    }
    found = joint.run(tokens)
    for k, expected in enumerate(ways["adapter on, then off"]()):
        torch.testing.assert_close(found[k::2], expected, rtol=1e-3, atol=1e-3)
    of = targets if isinstance(targets, str) else ", ".join(targets)
    return {"adapter of": of, "rows": rows, **medians(ways, rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trios", nargs="+", default=["demo", "wide"], help="not with --at-once or --adapter")
    parser.add_argument(
        "--at-once", action="store_true", help="one row, Llamas of width 256 x 3 and 512 x 6, V = 32000"
    )
    parser.add_argument("--adapter", action="store_true", help="a LoRA adapter of a Llama of width 512 x 6, rank 8")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="bfloat16", help="on a GPU")
    parser.add_argument("--seconds", type=float, default=60, help="on a GPU: begin nothing later")
    args = parser.parse_args()
    if args.device == "cuda":
        start, found = time.monotonic(), []
        for size in args.trios:
            for rows in args.batch:
                if time.monotonic() - start < args.seconds:
                    found.append(measure_cuda(size, rows, args.rounds, getattr(torch, args.dtype)))
        if args.json:
            _json.write(args.json, {"machine": describe(), "results": found}, indent=1)
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.at_once:
        results = [measure_at_once(size, 1, args.rounds) for size in ("19M", "36M")]
    elif args.adapter:
        adapters: list[Any] = [["q_proj", "v_proj"], "all-linear"]
        results = [measure_adapter(targets, rows, args.rounds) for targets in adapters for rows in args.batch]
    else:
        results = [measure(name, rows, args.rounds) for name in args.trios for rows in args.batch]
    ways = list(results[0])[2:]
    table = Table("pair of", "B", *ways, title="Tuned and base, one token, microseconds")
    for r in results:
        table.add_row(str(next(iter(r.values()))), str(r["rows"]), *(f"{r[way]:,.0f}" for way in ways))
    Console().print(table)
    if args.json:
        _json.write(args.json, {"machine": describe(), "results": results}, indent=1)


if __name__ == "__main__":
    main()
