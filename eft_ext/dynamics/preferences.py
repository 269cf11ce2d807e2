"""Preference data as trainers have it, and the mitigation of squeezing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def extend_for_sft(preferences: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Makes the data set for SFT on chosen *and* rejected responses, to train on before DPO.

    SFT on the rejected responses raises their probability. DPO can then lower it without raising the argmax instead
    (Ren & Sutherland, §4.3, "extend").

    Args:
        preferences: rows {"prompt", "chosen", "rejected"}, texts or lists of chat messages, as in TRL; a
            `datasets.Dataset` iterates so. "prompt" may be missing where both are conversations that open alike.

    Returns:
        Rows {"prompt", "completion"}, two for each preference, chosen first: `datasets.Dataset.from_list` of them is
        what `trl.SFTTrainer` takes.

    Raises:
        ValueError: a row lacks a key or has one of another type; the message names both.
    """
    rows = []
    for number, row in enumerate(preferences):
        prompt, chosen, rejected = preference(row, f"row {number}")
        rows += [{"prompt": prompt, "completion": chosen}, {"prompt": prompt, "completion": rejected}]
    return rows


def preference(row: Mapping[str, Any], where: str) -> tuple[Any, Any, Any]:
    """(prompt, chosen, rejected) of one row, all text or all lists of messages.

    Raises:
        ValueError: naming `where` and the key.
    """
    for key in ("chosen", "rejected"):
        if key not in row:
            raise ValueError(f"{where}: expected the key '{key}', got {', '.join(row) or 'none'}")
    chosen, rejected = row["chosen"], row["rejected"]
    kind = type(chosen)
    for key in ("chosen", "rejected", "prompt"):
        value = row.get(key, chosen)
        if not isinstance(value, str | list) or type(value) is not kind:
            wanted = "text" if kind is str else "a list of messages" if kind is list else "text or messages"
            raise ValueError(f"{where}, key '{key}': expected {wanted}, got {type(value).__name__}")
    if "prompt" in row:
        return row["prompt"], chosen, rejected
    shared = 0
    for a, b in zip(chosen[:-1], rejected[:-1], strict=False):
        if a != b:
            break
        shared += 1
    if kind is str or not shared:
        raise ValueError(f"{where}: expected the key 'prompt', or conversations that open alike, got neither")
    return chosen[:shared], chosen[shared:], rejected[shared:]
