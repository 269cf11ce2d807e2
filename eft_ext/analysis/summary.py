"""Figures of a whole data set, from the results of its texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any


def finite(x: float) -> float | None:
    """JSON has no infinity: null stands for a text that a distribution excludes."""
    return x if math.isfinite(x) else None


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums up the data set: perplexity over all tokens; reward per text; distances per token."""
    tokens = sum(r["tokens"] for r in results)
    perplexity: dict[str, float | None] = {}
    for name in results[0]["logprobs"]:
        whole = _sum(r["logprobs"][name] for r in results)
        perplexity[name] = None if whole is None else finite(_exp(-whole / tokens))
    per_token: dict[str, float | None] = {}
    for key in ("tv", "kl"):
        whole = _sum(None if r[key] is None else r[key] * r["tokens"] for r in results)
        per_token[key] = None if whole is None else whole / tokens
    rewards = [r["reward"] for r in results if r["reward"] is not None]
    mean = math.fsum(rewards) / len(rewards) if rewards else None
    compared = results[0].get("compared", "tuned")
    return {
        "texts": len(results),
        "tokens": tokens,
        "compared": compared,
        "perplexity": perplexity,
        "mean_reward": mean,
        **per_token,
    }


def _sum(parts: Iterable[float | None]) -> float | None:
    """None, infinity in JSON, where one of them is."""
    found = list(parts)
    return None if None in found else math.fsum(x for x in found if x is not None)


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
