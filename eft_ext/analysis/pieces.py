"""A record in pieces: the page lays out one at a time, and its script reads one at a time."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from eft_ext.analysis.record import Candidate, Change, Token
from eft_ext.analysis.visible import visible

LENGTH = 400  # tokens; shorter texts are one piece
Pool = dict[tuple[int, str], int]


def pieces(tokens: Sequence[Token]) -> list[range]:
    """Positions of each piece. It ends with a line if one ends in its second half, else with a word if it can."""
    found, start = [], 0
    while start < len(tokens):
        end = min(start + LENGTH, len(tokens))
        ends = range(end, start + LENGTH // 2, -1) if end < len(tokens) else []
        lines = (i for i in ends if tokens[i - 1].text.endswith("\n"))
        words = (i for i in ends if tokens[i].text.startswith(" "))
        end = next(lines, next(words, end))
        found.append(range(start, end))
        start = end
    return found


def packed(tokens: Iterable[Token], pool: Pool) -> str:
    """Packs all models' thoughts on the tokens of a piece, for `thought` in panel.js: deflated JSON in base64.

    Each token is its place in the pool, logprobs, entropy, rank, candidates, up, down, speculation and attribution. A
    candidate or change is its place in the pool and its figures. The pool gets a place for each new id and text.
    """

    def place(part: Token | Candidate | Change) -> int:
        return pool.setdefault((part.id, part.text), len(pool))

    def row(token: Token) -> list[Any]:
        shares = token.attribution
        return [
            place(token),
            rounded(token.logprobs),
            rounded(token.entropy),
            token.rank,
            [[place(c), *rounded(c.logprobs)] for c in token.candidates],
            [[place(c), *rounded([c.log_ratio])] for c in token.up],
            [[place(c), *rounded([c.log_ratio])] for c in token.down],
            token.speculation,
            shares and dict(zip(map(visible, shares), rounded(shares.values()), strict=True)),
        ]

    text = json.dumps([row(token) for token in tokens], separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode())).decode()


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Five digits, where the page shows three; what JSON lacks is None."""
    return [float(f"{x:.5g}") if x is not None and math.isfinite(x) else None for x in values]
