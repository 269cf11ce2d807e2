"""Times of streamed tokens over several servers, which take turns."""

from __future__ import annotations

import asyncio
import json
import random
import time

import psutil
from openai import AsyncOpenAI

from load.asking import Target
from load.requests import BETAS
from load.times import Arrivals, further, medians, spread

Prompts = list[list[int]]
QUIET = 0.3  # cores that other processes may use during a pass
TRIES = 3  # of a pass that they disturb


def prompts(vocab: int, count: int) -> Prompts:
    """Random tokens, 16 to 64 to a prompt."""
    draw = random.Random(0)
    return [[draw.randrange(5, vocab) for _ in range(draw.randint(16, 64))] for _ in range(count)]


async def turns(
    targets: dict[str, tuple[Target, int | None]], ids: Prompts, new: int, passes: int
) -> dict[str, dict[str, float]]:
    """Medians over passes for each server, after one pass that warms up. A disturbed pass is tried again.

    Args:
        targets: each server, and its process's id where it is known. Every other pass begins with the last one.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in targets}
    for number in range(passes + 1):
        for name in list(targets)[:: -1 if number % 2 else 1]:
            tries: list[dict[str, float]] = []
            while len(tries) < TRIES and all(each.get("other_cores", 0) > QUIET for each in tries):
                tries.append(await one_pass(*targets[name], ids, new, name == "trio"))
            found[name].append(min(tries, key=lambda own: own.get("other_cores", 0)))
    return {name: medians(own[1:]) for name, own in found.items()}


async def one_pass(target: Target, process: int | None, ids: Prompts, new: int, betas: bool) -> dict[str, float]:
    """All prompts at once, each with its own beta if there are any."""
    own = [{} if not betas or (beta := BETAS[i % len(BETAS)]) is None else {"beta": beta} for i in range(len(ids))]
    async with target.client() as client:
        await client.models.list()  # opens a connection
        before, busy, used, start = _cpu(process), _busy(), time.process_time(), time.perf_counter()
        found = await asyncio.gather(
            *(_arrivals(client, target.model, *each, new) for each in zip(ids, own, strict=True))
        )
        seconds, used, busy = time.perf_counter() - start, time.process_time() - used, _busy() - busy
        spent = {name: after - before[name] for name, after in _cpu(process).items()}
    tokens = sum(count for each in found for _, count in each)
    first, rest = spread([each[0][0] for each in found]), spread([gap for each in found for gap in further(each)])
    last = spread([each[-1][0] for each in found])
    return {
        "first_p50_ms": first["p50"],
        "first_p99_ms": first["p99"],
        "further_p50_ms": rest["p50"],
        "further_p99_ms": rest["p99"],
        "last_p50_ms": last["p50"],
        "tokens": tokens,
        "tokens_s": tokens / seconds,
        "parts": sum(len(each) for each in found),
        "client_cpu_ms": 1e3 * used / tokens,
        **{name: 1e3 * own / tokens for name, own in spent.items()},
        **({"other_cores": (busy - used - sum(spent.values())) / seconds} if spent else {}),
    }


async def _arrivals(client: AsyncOpenAI, model: str, ids: list[int], own: dict[str, float], new: int) -> Arrivals:
    """Seconds after the request at which tokens came, and how many."""
    body = {"ignore_eos": True, "return_token_ids": True, "vllm_xargs": own}
    start, found = time.perf_counter(), []
    # The client's own objects would cost more than the engine's step.
    async with client.completions.with_streaming_response.create(
        model=model, prompt=ids, max_tokens=new, temperature=0, stream=True, extra_body=body
    ) as stream:
        async for line in stream.iter_lines():
            if line.startswith("data: {"):
                tokens = json.loads(line.removeprefix("data: "))["choices"][0]["token_ids"]
                found.append((time.perf_counter() - start, len(tokens)))
    return found


def _busy() -> float:
    """CPU seconds up to now of everything on this machine."""
    found = psutil.cpu_times()
    return float(sum(found) - found.idle - getattr(found, "iowait", 0.0) - getattr(found, "guest", 0.0))


def _cpu(process: int | None) -> dict[str, float]:
    """CPU seconds up to now of a server's own process, and of its engine."""
    if process is None:
        return {}
    server = psutil.Process(process)
    own = {"server_cpu_ms": [server], "engine_cpu_ms": server.children(recursive=True)}
    return {name: sum(sum(each.cpu_times()[:2]) for each in those) for name, those in own.items()}
