"""Requests by the official client, and one that its client may never read."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from openai import AsyncOpenAI

from load.requests import SCHEMA, Request
from python_tests.helpers.vllm_server import metric

PATIENCE = 60.0  # seconds for one answer
LONG = 10  # streams of a long answer: more text than the sockets hold


@dataclass(frozen=True)
class Target:
    """A server and the model that it serves."""

    url: str
    model: str

    def client(self) -> AsyncOpenAI:
        """The official client, which tries once."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)

    def slots(self) -> int:
        """Requests that run or wait."""
        return int(sum(metric(self.url, f"vllm:num_requests_{name}") for name in ("running", "waiting")))


async def begin(client: AsyncOpenAI, model: str, request: Request) -> Any:
    """Sends a request. Returns its completion, or the stream of its parts."""
    own = {"model": model, "stream": request.streamed, "extra_body": request.fields}
    if not request.kind.startswith("schema"):
        return await client.completions.create(prompt=request.prompt, **own)
    schema = {"type": "json_schema", "json_schema": {"name": "town", "schema": SCHEMA}}
    messages = [{"role": "user", "content": request.prompt}]
    return await client.chat.completions.create(messages=messages, response_format=schema, **own)


async def text(client: AsyncOpenAI, model: str, request: Request) -> str:
    """The whole text of an answer.

    Raises:
        ConnectionError: the stream ended before the answer did.
    """
    found = await begin(client, model, request)
    parts = [part async for part in found] if request.streamed else [found]
    choices = [part.choices[0] for part in parts if part.choices]
    if not choices or choices[-1].finish_reason is None:
        raise ConnectionError("the stream ended before the answer did")
    return "".join(map(_piece, choices))


def _piece(choice: Any) -> str:
    """The text of a completion, of a chat's message, or of a part of a chat."""
    if hasattr(choice, "text"):
        return str(choice.text)
    return (choice.delta if hasattr(choice, "delta") else choice.message).content or ""


@asynccontextmanager
async def long_answer(
    target: Target, reads: bool, streams: int = LONG, logprobs: int | None = 20
) -> AsyncIterator[None]:
    """A client that asks for long streams in one request, and closes when the context ends.

    Args:
        logprobs: of each token, to make a stream of more text than the sockets hold.
        reads: reads what comes; otherwise it reads nothing, with a receive buffer of the least size.
    """
    where = urlsplit(target.url)
    fields = {"model": target.model, "prompt": ["A"] * streams, "max_tokens": 230, "temperature": 0, "stream": True}
    body = json.dumps({**fields, "ignore_eos": True, "logprobs": logprobs}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in str(where.hostname) else socket.AF_INET) as client:
        if not reads:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.setblocking(False)
        await loop.sock_connect(client, (where.hostname, where.port))
        await loop.sock_sendall(client, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        reading = loop.create_task(_drain(client)) if reads else None
        try:
            yield
        finally:
            if reading:
                reading.cancel()


async def _drain(client: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(client, 2**16):
        pass


async def seconds_until(done: Callable[[], bool], limit: float) -> float | None:
    """Seconds until a condition holds; None if it does not within the limit."""
    start = time.monotonic()
    while time.monotonic() - start < limit:
        if await asyncio.to_thread(done):
            return time.monotonic() - start
        await asyncio.sleep(0.02)
    return None
