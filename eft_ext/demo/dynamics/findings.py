"""What the record shows, each finding with its interval."""

from __future__ import annotations

from collections.abc import Iterator

from eft_ext.demo.dynamics.record import Record


def report(record: Record) -> Iterator[str]:
    yield "nothing yet"
