"""Text that no tokenizer can take, and text in columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def fault(text: str) -> str:
    """The first thing in a text that is no character, with its place; empty where there is none.

    Python reads a byte that is not UTF-8 as half of a surrogate pair, on the command line for one; JSON may hold such
    halves too.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code, place = ord(text[error.start]), f"at character {error.start + 1}"
        if 0xDC80 <= code <= 0xDCFF:
            return f"a byte that is not UTF-8, 0x{code & 0xFF:02x}, {place}"
        return f"a lone surrogate, U+{code:04X}, {place}"
    return ""


def printable(value: object) -> str:
    """A value as text that any stream takes, such as the name of a file that is no UTF-8."""
    return str(value).encode(errors="backslashreplace").decode()


def aligned(rows: Sequence[tuple[str, ...]], right: Collection[int] = ()) -> list[str]:
    """Rows in columns, those named in `right` to the right. The last may be longer than a terminal is wide."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    put = [str.rjust if index in right else str.ljust for index in range(len(widths))]
    return ["  ".join(f(cell, w) for f, cell, w in zip(put, row, widths, strict=True)).rstrip() for row in rows]


def checked(name: str, texts: Iterable[str]) -> tuple[str, ...]:
    """The texts. Raises ValueError for one with a fault; `name` is the argument's."""
    texts = tuple(texts)
    for wrong in filter(None, map(fault, texts)):
        raise ValueError(f"{name}: expected text, got {wrong}")
    return texts
