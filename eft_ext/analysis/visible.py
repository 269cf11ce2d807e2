"""Text whose every character can be seen: the one rule that the report's page and its script follow.

A character that leaves no ink becomes a mark such as ⟨U+200B⟩. Controls of direction are among them, so none reorders
its neighbours.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, formats, half a surrogate pair, separators
_SEEN = set(map(chr, (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD)))  # Cf with ink
# Letters, marks and a symbol without ink, and all variation selectors.
_BLANK = set("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_BLANK.update(map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0000, 0xE1000))))


class _Marks(dict[int, str]):
    """A table for `str.translate` that fills itself."""

    def __missing__(self, point: int) -> str:
        c = chr(point)
        hidden = c in _BLANK or (unicodedata.category(c) in _INVISIBLE and c not in _SEEN)
        self[point] = f"⟨U+{point:04X}⟩" if hidden else c
        return self[point]


_BROKEN = _Marks({ord("\r"): "␍", ord("\t"): "⇥\t", ord("\n"): "↵\n"})
_ONE_LINE = _Marks({ord("\r"): "␍", ord("\t"): "⇥", ord("\n"): "↵", ord(" "): "·"})
PARTIAL = "⋯"  # bytes of a character that a later token completes


def visible(text: object) -> str:
    """Text as it stands on the page; its lines still break."""
    return str(text).translate(_BROKEN)


def on_one_line(text: str) -> str:
    """A token's text in a list: spaces, tabs and line ends are marks too. Never empty."""
    return text.translate(_ONE_LINE) or PARTIAL


def marks(texts: Iterable[str]) -> dict[str, str]:
    """The marks that `on_one_line` puts for the characters of texts, for a script that does the same."""
    found = {c: on_one_line(c) for c in sorted({"", *"".join(texts)})}
    return {c: mark for c, mark in found.items() if c != mark}
