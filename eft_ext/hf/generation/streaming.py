"""Streamers: who reads one in another thread must not wait forever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from transformers.generation.streamers import BaseStreamer


@contextmanager
def ended_by_errors(streamer: BaseStreamer | None) -> Iterator[None]:
    """Ends `streamer` where what is done inside raises, be it a rejected argument or a failing step."""
    try:
        yield
    except BaseException:
        if streamer is not None:
            with suppress(Exception):
                streamer.end()
        raise
