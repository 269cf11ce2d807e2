"""Requests of every kind at once, with a client that never reads beside them."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from statistics import median
from typing import Any

import jsonschema
import openai
from openai import AsyncOpenAI

from load.asking import PATIENCE, Target, begin, long_answer, seconds_until, text
from load.reference import Loop
from load.requests import BAD, SCHEMA, Request, mixed

FREED = 10.0  # seconds for slots to be free once nobody waits for them
PARTS = 3  # of a stream that its client closes early


async def rounds(target: Target, loop: Loop, at_once: int, count: int) -> dict[str, Any]:
    """`count` rounds beside a client that reads a long answer, and as many beside one that never reads it.

    Returns requests by kind, faults by kind, seconds of a round, and seconds until all slots were free.
    """
    requests = mixed(at_once)
    expected = [loop.text(each) if each.kind in ("whole", "streamed") else "" for each in requests]
    faults: Counter[str] = Counter()
    took: dict[bool, list[float]] = {False: [], True: []}
    freed: list[float] = []
    for number in range(2 * count):
        unread = bool(number % 2)
        async with target.client() as client, long_answer(target, reads=not unread):
            start = time.monotonic()
            asked = (one(client, target.model, *pair) for pair in zip(requests, expected, strict=True))
            found = await asyncio.gather(*asked)
            took[unread].append(time.monotonic() - start)
        faults.update(f"{request.kind}: {fault}" for request, fault in zip(requests, found, strict=True) if fault)
        if (seconds := await seconds_until(lambda: target.slots() == 0, FREED)) is None:
            faults[f"slots are not free after {FREED:.0f} s"] += 1
        freed.append(FREED if seconds is None else seconds)
    return {
        "requests": {kind: 2 * count * n for kind, n in Counter(each.kind for each in requests).items()},
        "faults": faults,
        "seconds_beside_read": median(took[False]),
        "seconds_beside_unread": median(took[True]),
        "slots_free_s": max(freed),
        **await closing_frees(target, 4 * at_once),
    }


async def closing_frees(target: Target, streams: int) -> dict[str, Any]:
    """Closes a client that never reads while its streams run: seconds until its slots are free."""
    async with long_answer(target, reads=False, streams=streams, logprobs=None):
        began = await seconds_until(lambda: target.slots() > 0, FREED)
    return {"unread_ran": began is not None, "unread_free_s": await seconds_until(lambda: target.slots() == 0, FREED)}


async def one(client: AsyncOpenAI, model: str, request: Request, expected: str) -> str:
    """Sends a request and compares what comes. Returns the fault, or nothing."""
    try:
        return await asyncio.wait_for(_check(client, model, request, expected), PATIENCE)
    except asyncio.TimeoutError:
        return f"hung for {PATIENCE:.0f} s"
    except Exception as error:  # a fault of any kind is counted, and the others go on
        return f"{type(error).__name__}: {error}"


async def _check(client: AsyncOpenAI, model: str, request: Request, expected: str) -> str:
    if request.kind.endswith("closed"):
        return await _closed(client, model, request)
    if request.kind.startswith("bad"):
        return await _bad(client, model, request)
    found = await text(client, model, request)
    if request.kind.startswith("schema"):
        jsonschema.validate(json.loads(found), SCHEMA)
        return ""
    return "" if found == expected else "another text than the loop's"


async def _bad(client: AsyncOpenAI, model: str, request: Request) -> str:
    try:
        await text(client, model, request)
    except openai.APIError as error:  # in a stream, an event with the code
        code = error.status_code if isinstance(error, openai.APIStatusError) else error.code
        right = code in (400, "400") and BAD[request.bad][1] in error.message
        return "" if right else f"{code}: {error.message}"
    return "answered"


async def _closed(client: AsyncOpenAI, model: str, request: Request) -> str:
    if not request.streamed:
        try:
            await asyncio.wait_for(begin(client, model, request), 0.5)
        except asyncio.TimeoutError:
            return ""
        return "answered"
    parts, stream = 0, await begin(client, model, request)
    async for _part in stream:
        parts += 1
        if parts == PARTS:
            break
    await stream.close()
    return "" if parts == PARTS else f"{parts} parts"
