"""A text token by token, as plain data: what the report shows, and any other tool may read or write.

As JSON a record is an object of the fields below, `Record.to_dict`; where a list has one entry for each distribution,
it follows `names`. -inf and NaN, which JSON lacks, are null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache, partial
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from eft_ext._json import plain

_LARGEST = {"logprobs": 0.01, "tv": 1.01}  # but for rounding
SPECULATION = ("accepted", "rejected", "bonus")


@dataclass(frozen=True)
class Candidate:
    """A token that a distribution ranks among its first.

    Attributes:
        id: of the token.
        text: of the token.
        logprobs: under each of the record's `names`, in nats.
    """

    id: int
    text: str
    logprobs: list[float | None]


@dataclass(frozen=True)
class Change:
    """A token that the mixture makes more or less likely than the compared model does.

    Attributes:
        id: of the token.
        text: of the token.
        log_ratio: log p_mixture − log p_compared, in nats.
    """

    id: int
    text: str
    log_ratio: float | None


@dataclass(frozen=True)
class Token:
    """One token of the text, and its probabilities under every distribution at that place.

    Attributes:
        id: of the token.
        text: its part of the decoded text; "" where it completes no character.
        logprobs: of this token under each of the record's `names`, in nats.
        entropy: of each distribution, in nats.
        rank: of this token in each distribution, 0 the first.
        tv: total variation between the mixture and the compared model, 0 to 1.
        kl: KL(mixture || compared), in nats.
        special: True for one of the tokenizer's special tokens.
        candidates: the first tokens of the distributions.
        up: tokens that the mixture makes more likely.
        down: tokens that the mixture makes less likely.
        speculation: how the drafted token came to be here: "accepted", "rejected" (drawn in place of a rejected draft)
            or "bonus"; None for a token of an ordinary step.
        attribution: any named per-token figures, such as a share per model.
    """

    id: int
    text: str
    logprobs: list[float | None]
    entropy: list[float | None] = field(default_factory=list)
    rank: list[int] = field(default_factory=list)
    tv: float | None = None
    kl: float | None = None
    special: bool = False
    candidates: list[Candidate] = field(default_factory=list)
    up: list[Change] = field(default_factory=list)
    down: list[Change] = field(default_factory=list)
    speculation: str | None = None
    attribution: dict[str, float | None] | None = None


@dataclass(frozen=True)
class Record:
    """One text: its prompt, its scored tokens, and how they were scored.

    Attributes:
        tokens: the scored tokens.
        prompt: the text before them.
        names: of the distributions.
        options: weights and sampling, shown as they are.
        compared: the model that `tv`, `kl`, `up` and `down` compare the mixture with.
    """

    tokens: list[Token]
    prompt: str = ""
    names: list[str] = field(default_factory=lambda: ["large", "tuned", "base", "mixture"])
    options: dict[str, Any] = field(default_factory=dict)
    compared: str = "tuned"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for `json.dump`; −inf and NaN become None."""
        values: dict[str, Any] = plain(self)
        return values

    @classmethod
    def from_dict(cls, data: Any) -> Record:
        """Reads what `to_dict` returned. Raises ValueError, which names what is missing, unknown or of another type."""
        kind: Any = cls  # mypy takes no class for hashable
        try:
            record = _reader(kind)(data)
        except _Misfit as misfit:
            raise ValueError(f"record{misfit.path}: {misfit.said}") from misfit
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


class _Misfit(Exception):
    """Data that is no value of a field; `path` grows on the way out, since most data fits."""

    def __init__(self, said: str, path: str = "") -> None:
        self.said, self.path = said, path


@cache
def _reader(hint: Any) -> Any:
    """Turns plain data into a value of a field's annotation, or raises _Misfit."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):  # of one type and None
        read = _reader(inner[0])
        return lambda data: None if data is None else read(data)
    if kind is list:
        return partial(_list, _reader(inner[0]))
    if kind is dict:
        return partial(_dict, _reader(inner[1]))
    if is_dataclass(hint):
        return partial(_object, hint, {name: _reader(each) for name, each in get_type_hints(hint).items()})
    if hint is float:
        return _number
    return (lambda data: data) if hint is Any else partial(_of, hint, hint.__name__)


def _list(read: Callable[[Any], Any], data: Any) -> list[Any]:
    found: list[Any] = []
    try:
        for item in _of(list, "a list", data):
            found.append(read(item))
    except _Misfit as misfit:
        if isinstance(data, list):
            misfit.path = f"[{len(found)}]{misfit.path}"
        raise
    return found


def _dict(read: Callable[[Any], Any], data: Any) -> dict[str, Any]:
    return _fields(dict.fromkeys(_of(dict, "an object", data), read), data)


def _fields(readers: Mapping[str, Callable[[Any], Any]], data: Mapping[str, Any]) -> dict[str, Any]:
    found, name = {}, ""
    try:
        for name, value in data.items():
            found[name] = readers[name](value)
    except _Misfit as misfit:
        misfit.path = f".{name}{misfit.path}"
        raise
    return found


def _of(kind: Any, wanted: str, data: Any) -> Any:
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise _Misfit(f"expected {wanted}, got {type(data).__name__}")
    return data


def _number(data: Any) -> float:
    number = float(_of((int, float), "a finite number", data))
    if not math.isfinite(number):
        raise _Misfit(f"expected a finite number, got {number}")
    return number


def _object(kind: Any, readers: Mapping[str, Callable[[Any], Any]], data: Any) -> Any:
    for key in _of(dict, "an object", data):
        if key not in readers:
            raise _Misfit(f"unknown key {key!r}; expected {', '.join(readers)}")
    values = _fields(readers, data)
    for name, most in _LARGEST.items():
        found = values.get(name)
        if any(x is not None and x > most for x in (found if isinstance(found, list) else [found])):
            raise _Misfit(f"expected at most {most:.0f}, got {found}", f".{name}")
    try:
        return kind(**values)
    except TypeError as error:  # a missing field; dataclasses name it
        raise _Misfit(str(error).partition(" ")[2]) from error
