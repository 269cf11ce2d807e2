"""Text that no tokenizer can take."""

from __future__ import annotations

from collections.abc import Iterable


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


def checked(name: str, texts: Iterable[str]) -> tuple[str, ...]:
    """The texts. Raises ValueError for one with a fault; `name` is the argument's."""
    texts = tuple(texts)
    for wrong in filter(None, map(fault, texts)):
        raise ValueError(f"{name}: expected text, got {wrong}")
    return texts
