"""Names cut for pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


def short(names: Sequence[str], most: int = 28) -> list[str]:
    """Names of `most` characters, 16 at least, that leave room for the data and stay different.

    They are numbered where they differ in too many places.
    """
    found = _cut(names, most)
    if len(set(found)) < len(set(names)) or any(len(name) > most for name in found):
        found = [f"{i}: {_without_middle(name, most - 5)}" for i, name in enumerate(names, 1)]
    # Matplotlib would leave out one that begins with an underscore.
    return [f" {name}" if name.startswith("_") else name for name in found]


def _without_middle(name: str, most: int) -> str:
    head, tail = _ends(most - 1)
    return name if len(name) <= most else f"{name[:head]}…{name[-tail:]}"


def _cut(names: Sequence[str], most: int) -> list[str]:
    """Without their middles; without what they agree in around their middles where they would become the same."""
    if most < 8:  # nothing would be left
        return list(names)
    found = [_without_middle(name, most) for name in names]
    alike = defaultdict(set)
    for cut, name in zip(found, names, strict=True):
        alike[cut].add(name)
    shown: dict[str, str] = {}
    for same in (list(each) for each in alike.values() if len(each) > 1):
        start = _beginning(same)
        rests = [name[len(start) :] for name in same]
        end = _beginning([rest[::-1] for rest in rests])[::-1]
        middles = _cut([rest[: len(rest) - len(end)] for rest in rests], most // 2)
        head, tail = _ends(most - 2 - max(map(len, middles)))
        shown |= {n: f"{start[:head]}…{m}…{end[-tail:]}" for n, m in zip(same, middles, strict=True)}
    return [shown.get(name, cut) for name, cut in zip(names, found, strict=True)]


def _ends(room: int) -> tuple[int, int]:
    """Characters to keep at the beginning and at the end, one at least."""
    tail = max(1, room * 3 // 8)
    return max(1, room - tail), tail


def _beginning(names: Sequence[str]) -> str:
    """The characters that all begin with."""
    first, last = min(names), max(names)
    same = [a == b for a, b in zip(first, last, strict=False)]
    return first[: [*same, False].index(False)]
