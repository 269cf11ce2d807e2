"""A text token by token, as plain data: what the report shows, and any other tool may read or write.

As JSON a record is an object of the fields below, `Record.to_dict`; where a list has one entry for each distribution,
it follows `names`. -inf and NaN, which JSON lacks, are null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

SPECULATION = ("accepted", "rejected", "bonus")


@dataclass(frozen=True)
class Candidate:
    """A token that a distribution ranks among its first."""

    id: int
    text: str
    logprobs: list[float | None]  # under each of `names`, nats


@dataclass(frozen=True)
class Change:
    """A token that the mixture makes more or less likely than the compared model does."""

    id: int
    text: str
    log_ratio: float | None  # log p_mixture - log p_compared, nats


@dataclass(frozen=True)
class Token:
    """One token of the text and what was thought of it where it stands."""

    id: int
    text: str  # its part of the decoded text; "" where it completes no character
    logprobs: list[float | None]  # of this token under each of `names`, nats
    entropy: list[float | None] = field(default_factory=list)  # of each distribution, nats
    rank: list[int] = field(default_factory=list)  # of this token, 0 the first
    tv: float | None = None  # total variation between mixture and compared, 0 to 1
    kl: float | None = None  # KL(mixture || compared), nats
    special: bool = False
    candidates: list[Candidate] = field(default_factory=list)
    up: list[Change] = field(default_factory=list)
    down: list[Change] = field(default_factory=list)
    speculation: str | None = None  # one of SPECULATION: how the drafted token came to be here
    attribution: dict[str, float] | None = None  # any named per-token figures, such as a share per model


@dataclass(frozen=True)
class Record:
    """One text: its prompt, its scored tokens, and how they were scored."""

    tokens: list[Token]
    prompt: str = ""
    names: list[str] = field(default_factory=lambda: ["large", "tuned", "base", "mixture"])
    options: dict[str, Any] = field(default_factory=dict)  # weights and sampling, shown as they are
    compared: str = "tuned"  # the model that tv, kl, up and down set the mixture against

    def to_dict(self) -> dict[str, Any]:
        """For `json.dump(..., allow_nan=False)`."""
        plain: dict[str, Any] = _plain(self)
        return plain

    @classmethod
    def from_dict(cls, data: Any) -> Record:
        """The inverse of `to_dict`. Raises ValueError naming what is missing, unknown or of another type."""
        record = _read("record", cls, data)
        assert isinstance(record, Record)
        for i, token in enumerate(record.tokens):
            if len(token.logprobs) != len(record.names):
                raise ValueError(
                    f"record.tokens[{i}].logprobs: expected {len(record.names)}, one for each name, "
                    f"got {len(token.logprobs)}"
                )
            if token.speculation not in (None, *SPECULATION):
                raise ValueError(
                    f"record.tokens[{i}].speculation: expected one of {SPECULATION}, got {token.speculation!r}"
                )
        return record


_PARTS = {"tokens": Token, "candidates": Candidate, "up": Change, "down": Change}


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(path: str, kind: Any, data: Any) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{path}: expected an object, got {type(data).__name__}")
    known = {f.name: f for f in fields(kind)}
    for key in data:
        if key not in known:
            raise ValueError(f"{path}: unknown key {key!r}; expected {', '.join(known)}")
    values: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for name, value in data.items():
        where = f"{path}.{name}"
        if str(hints[name]).startswith("list") and not isinstance(value, list):
            raise ValueError(f"{where}: expected a list, got {type(value).__name__}")
        if hints[name] in (int, str) and (not isinstance(value, hints[name]) or isinstance(value, bool)):
            raise ValueError(f"{where}: expected {hints[name].__name__}, got {type(value).__name__}")
        if name in _PARTS:
            value = [_read(f"{where}[{i}]", _PARTS[name], item) for i, item in enumerate(value)]
        values[name] = value
    try:
        return kind(**values)
    except TypeError as error:  # a missing field; dataclasses name it
        raise ValueError(f"{path}: {str(error).partition(' ')[2]}") from error
