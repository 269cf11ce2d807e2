"""Text that is no Unicode, which no tokenizer takes."""

from __future__ import annotations


def check_text(name: str, text: str) -> None:
    """Raises ValueError naming the argument where a text has a character that is no Unicode.

    Such are bytes that were no UTF-8, as Python has them on a command line, and halves of a pair in JSON.
    """
    if text.isascii():
        return
    at = next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), None)
    if at is None:
        return
    code = ord(text[at])
    what = f"the byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"the lone surrogate U+{code:04X}"
    raise ValueError(f"{name}: expected UTF-8, got {what} after {at} character{'' if at == 1 else 's'}")
