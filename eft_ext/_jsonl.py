"""JSON that a user hands in: every complaint names the file, the line and the key."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from eft_ext._files import named
from eft_ext._text import fault

_LEVELS = 100  # Python's stack holds about 500 of what walks through them


@dataclass(frozen=True)
class Line:
    """One object of a JSONL file."""

    where: str  # "answers.jsonl, line 3", for messages
    number: int  # from 1
    text: str  # without the space around it
    object: dict[str, Any]


def read_lines(path: str | Path) -> Iterator[Line]:
    """Yields the objects of a JSONL file, one in each line that is not blank.

    The file is UTF-8, with or without a byte order mark, perhaps under gzip. Lines end with a line feed alone, since
    JSON may hold U+2028 and its like as they are.

    Raises:
        ValueError: no object in a line, a byte that is not UTF-8, a surrogate that stands alone, an empty file.
        OSError: no such file.
    """
    number = found = 0
    with named(path), _bytes(path) as stream:
        try:
            for number, line in enumerate(stream, start=1):
                text = line.decode(errors="surrogateescape")
                text = (text.removeprefix("\ufeff") if number == 1 else text).strip()
                if text:
                    found += 1
                    where = f"{path}, line {number}"
                    yield Line(where, number, text, parse_object(where, text))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}, line {number + 1}: the gzip is cut short or broken ({error})") from error
    if not found:
        raise ValueError(f"{path}: expected one JSON object in each line, got an empty file")


def read_object(path: str | Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises ValueError for anything else, OSError for no file."""
    return parse_object(str(path), Path(path).read_bytes().decode(errors="surrogateescape").removeprefix("\ufeff"))


@contextmanager
def _bytes(path: str | Path) -> Iterator[IO[bytes]]:
    with open(path, "rb") as raw:
        if raw.peek(2)[:2] != b"\x1f\x8b":
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # type: ignore[misc]


def parse_object(where: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at character {error.colno})") from error
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{where}: not JSON that Python reads ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{where}: expected JSON of at most {_LEVELS} levels, got thousands") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(value).__name__}")
    _check(where, "", value)
    return value


def _check(where: str, key: str, value: Any, level: int = 1) -> None:
    """Raises ValueError for text that is not Unicode, whole numbers that no float holds, and too many levels."""
    if isinstance(value, (dict, list)) and level > _LEVELS:
        raise ValueError(f"{where}, key {key.split('[')[0]!r}: expected JSON of at most {_LEVELS} levels, got more")
    if isinstance(value, dict):
        for name, item in value.items():
            _check(where, key, name)
            _check(where, f"{key}.{name}" if key else name, item, level + 1)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check(where, f"{key}[{i}]", item, level + 1)
    elif isinstance(value, int) and not -(2**64) < value < 2**64:
        raise ValueError(f"{where}, key {key!r}: expected a number of 64 bits at most, got one of {value.bit_length()}")
    elif isinstance(value, str) and (wrong := fault(value)):
        raise ValueError(f"{where}, key {key!r}: expected text, got {wrong}")
