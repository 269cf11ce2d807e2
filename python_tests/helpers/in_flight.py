"""Requests that are in flight at a server of the shipped trio when it, or its engine, is killed."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai

LONG = {"max_tokens": 230, "temperature": 0, "stream": True}  # as long as the shipped models take
COUNT = 16


def long_stream(client: openai.OpenAI, beta: float) -> Iterator[Any]:
    """A stream that only its client or a fault ends early."""
    body = {"ignore_eos": True, "vllm_xargs": {"beta": beta}}
    return client.completions.create(model="trio", prompt="A", extra_body=body, **LONG)


class InFlight:
    """Threads that each have a long stream in flight: one that ends is followed by the next, until one fails."""

    def __init__(self, client: openai.OpenAI) -> None:
        self.failed: dict[int, float] = {}
        self.begun = threading.Barrier(COUNT + 1)
        self.threads = [threading.Thread(target=self.one, args=(client, row), daemon=True) for row in range(COUNT)]
        for thread in self.threads:
            thread.start()
        self.begun.wait(60)
        assert not self.failed

    def one(self, client: openai.OpenAI, row: int) -> None:
        begun = False
        try:
            while True:
                for _ in long_stream(client, row / 4):
                    if not begun:
                        self.begun.wait(60)
                        begun = True
        except (openai.APIError, httpx.TransportError):
            self.failed[row] = time.monotonic()

    def fail(self, seconds: float) -> None:
        """Asserts that all fail within the time from now on."""
        now = time.monotonic()
        for thread in self.threads:
            thread.join(30)
        assert sorted(self.failed) == list(range(COUNT))
        assert max(self.failed.values()) - now < seconds
