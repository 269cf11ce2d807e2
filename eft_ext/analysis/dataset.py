"""Texts in a JSONL file, and results that are appended line by line, so that a run that was cut short goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from eft_ext._chat import messages, transcript
from eft_ext._files import Lock, goes_elsewhere, named
from eft_ext._json import dumps
from eft_ext._jsonl import Line, parse_object, read_lines

_KEYS = ("text", "prompt", "response", "messages")
_FORMS = ({"text"}, {"prompt", "response"}, {"messages"})
_PERHAPS = (int, float, NoneType)
_RESULT: dict[str, Any] = {
    **{"digest": str, "settings": str, "tokens": int, "logprobs": dict, "perplexity": dict, "compared": str},
    **dict.fromkeys(("reward", "tv", "kl"), _PERHAPS),
}


@dataclass(frozen=True)
class Item:
    """One line: a text that is scored whole, or a response that is scored after its prompt."""

    line: int  # from 1
    digest: str  # of the line, so that results are not mistaken for another file's
    text: str | None = None
    prompt: str | list[dict[str, str]] | None = None
    response: str | None = None

    @property
    def shown(self) -> str:
        """The prompt as text; a chat as a transcript."""
        given = self.prompt or ""
        return given if isinstance(given, str) else transcript(given)

    @property
    def chat(self) -> list[dict[str, str]]:
        """The prompt as a chat; a text as its user's only message."""
        given = self.prompt or ""
        return [{"role": "user", "content": given}] if isinstance(given, str) else given


def read_items(path: Path) -> list[Item]:
    """All lines of a file, blank ones left out.

    Raises:
        ValueError: names the file, the line and the key: not JSON, no object, a missing, empty or surplus key, both
            forms in one file.
    """
    items = [_item(line) for line in read_lines(path)]
    for item in items:
        if (item.text is None) != (items[0].text is None):
            raise ValueError(f"{path}, line {item.line}: expected the keys of line {items[0].line}, got the other form")
    return items


def _item(line: Line) -> Item:
    where = line.where
    given = {key: line.object[key] for key in _KEYS if key in line.object}
    if set(given) not in _FORMS:
        missing = "response" if "prompt" in given else "prompt" if "response" in given else "text"
        got = ", ".join(given) if len(given) > 1 else f"no {missing!r}"
        raise ValueError(f"{where}: expected the key 'text', or 'prompt' and 'response', or 'messages', got {got}")
    if "messages" in given:
        *prompt, last = messages(given["messages"], where, "messages", "messages")
        if not prompt or last["role"] != "assistant":
            raise ValueError(f"{where}, key 'messages': expected the assistant's message last, behind others")
        given = {"prompt": prompt, "response": last["content"]}
    elif isinstance(given.get("prompt"), list):
        messages(given["prompt"], where, "prompt", "text or messages")
    for key, value in given.items():
        if not isinstance(value, str) and not (key == "prompt" and isinstance(value, list)):
            raise ValueError(f"{where}, key {key!r}: expected text, got {type(value).__name__}")
        if not value and key != "prompt":
            raise ValueError(f"{where}, key {key!r}: expected text, got an empty one")
    return Item(line.number, hashlib.sha256(line.text.encode()).hexdigest()[:12], **given)


class ResultsFile:
    """A JSONL file of results, one line for each item in the items' order, written as they come.

    One process at a time may write it, until `close`; a file beside it, with .lock behind the name, says so.

    Attributes:
        done: the results that the file already holds.
    """

    def __init__(self, path: Path, items: list[Item], settings: str) -> None:
        """Opens or creates `path`. A last line that a crash cut short is dropped.

        Args:
            settings: what the results depend on besides the items; those of other settings are not mixed in.

        Raises:
            ValueError: the file holds results of other texts or settings, or no results at all; it is being written; it
                is a pipe, a device or where our own output goes.
        """
        if goes_elsewhere(path):
            got = "where this command prints" if path.is_file() else "a pipe or device"
            raise ValueError(f"{path}: expected a file that results can be appended to, got {got}")
        self._path, self._settings = path, settings
        self.done: list[dict[str, Any]] = []
        file = Path(os.path.realpath(path))
        self._lock = Lock(file.with_name(f"{file.name}.lock"), str(path))
        self._lock.take()
        try:
            if path.exists():
                self._resume(items)
            else:
                path.touch()
        except BaseException:
            self.close()
            raise

    def _resume(self, items: list[Item]) -> None:
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            where = f"{self._path}, line {number}"
            try:
                result = parse_object(where, line.decode(errors="surrogateescape"))
                _check_result(result, self.done[0] if self.done else result)
            except ValueError as error:
                raise ValueError(f"{where}: expected a result of eft score ({error}); give another --out") from error
            if number > len(items) or result["digest"] != items[number - 1].digest:
                raise ValueError(f"{where}: the result of another text than that in its place; give another --out")
            if result["settings"] != self._settings:
                raise ValueError(f"{where}: scored with other options; give another --out")
            self.done.append(result)
        if cut := content[len(whole) :]:
            if not self._is_begun(cut, items[len(self.done) :]):
                raise ValueError(f"{self._path}: expected results of eft score, got another file; give another --out")
            with open(self._path, "r+b") as stream:
                stream.truncate(len(whole))

    def _is_begun(self, cut: bytes, todo: list[Item]) -> bool:
        """True where this is the next item's result, cut short: such a file is no other's."""
        if not todo:
            return False
        begin = dumps(_begun(todo[0], self._settings)).encode()[:-1]
        return cut.startswith(begin) or begin.startswith(cut)

    def append(self, item: Item, result: Mapping[str, Any]) -> dict[str, Any]:
        """Writes one line; returns it.

        Raises:
            ValueError: earlier lines are of other models.
            OSError: has the name of the file, whose earlier lines stay.
        """
        line = {**_begun(item, self._settings), **result}
        if self.done and line["logprobs"].keys() != self.done[0]["logprobs"].keys():
            names = (", ".join(each["logprobs"]) for each in (self.done[0], line))
            raise ValueError("{}, line 1: results of {}, expected {}; give another --out".format(self._path, *names))
        text = dumps(line, ensure_ascii=False) + "\n"
        with named(self._path), open(self._path, "a", encoding="utf-8") as stream:
            stream.write(text)
        self.done.append(line)
        return line

    def close(self) -> None:
        """Lets others write the file."""
        self._lock.release()


def _begun(item: Item, settings: str) -> dict[str, Any]:
    return {"line": item.line, "digest": item.digest, "settings": settings}


def _check_result(result: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Raises ValueError naming the key of what is missing or of another type, or not of the first result's models."""
    for key, kind in _RESULT.items():
        value = result.get(key, ...)
        inner = value.values() if kind is dict and isinstance(value, dict) else ()
        fits = isinstance(value, kind) and all(isinstance(x, _PERHAPS) for x in inner)
        if not fits or any(isinstance(x, bool) for x in (value, *inner)):
            raise ValueError(f"key {key!r} is {'missing' if value is ... else 'of another type'}")
    if result["tokens"] < 1 or result["logprobs"].keys() != first.get("logprobs", result["logprobs"]).keys():
        raise ValueError("keys 'tokens' and 'logprobs' are not of these texts and models")


def settings_digest(settings: Mapping[str, Any]) -> str:
    """A short name of models, weights and templates."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
