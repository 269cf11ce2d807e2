"""Answers in a JSON-lines file, each written as it comes, so that a run that ends early is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path


class Rows:
    """The finished rows of a file, and a place for more.

    A last line without its end was cut off by the end of its process. It is dropped, so its row is missing.

    Args:
        path: made if it is not there.

    Raises:
        ValueError: another line holds no row, or a row that is there already.
    """

    def __init__(self, path: Path) -> None:
        self.texts: dict[int, str] = {}
        self.path = path
        path.touch()
        whole, _, torn = path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                row = json.loads(line)
                self._take(row["row"], row["text"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path}, line {number}: expected one more row and its text ({error})") from error
        self._out = path.open("r+b")
        self._out.truncate(path.stat().st_size - len(torn))
        self._out.seek(0, 2)

    def missing(self, rows: Iterable[int]) -> list[int]:
        """Those of `rows` that have no answer."""
        return [row for row in rows if row not in self.texts]

    def add(self, row: int, text: str) -> None:
        """Writes an answer; it stays when this process is killed."""
        self._take(row, text)
        self._out.write(json.dumps({"row": row, "text": text}).encode() + b"\n")
        self._out.flush()

    def close(self) -> None:
        self._out.close()

    def _take(self, row: int, text: str) -> None:
        if row in self.texts:
            raise ValueError(f"row {row} is there twice")
        self.texts[row] = text
