"""Sorts logits processors of transformers into those that the fused step performs and those that are left to run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

# In the order in which both transformers and the fused step apply them.
_FUSED = (
    (TemperatureLogitsWarper, "temperature"),
    (TopKLogitsWarper, "top_k"),
    (TopPLogitsWarper, "top_p"),
    (MinPLogitsWarper, "min_p"),
)
_ORDER = {kind: place for place, (kind, _) in enumerate(_FUSED)}


@dataclass(frozen=True)
class ProcessingPlan:
    """The treatment of the mixture's logits: run `processors`, then sample with `options`.

    `warpers` is what `options` stands for, needed only where the warped scores are asked for.
    """

    processors: LogitsProcessorList
    warpers: LogitsProcessorList
    options: dict[str, Any]


def plan_processing(processors: LogitsProcessorList, *, do_sample: bool) -> ProcessingPlan:
    """Split the list that transformers prepared.

    Temperature, top-k, top-p and min-p at its end, in this order, become options of the fused step. If
    anything else stands among or after them (typical_p, a watermark, ...), the order matters and the whole
    list is run as it is.
    """
    start = next((i for i, p in enumerate(processors) if type(p) in _ORDER), len(processors))
    warpers = list(processors[start:])
    places = [_ORDER.get(type(p), -1) for p in warpers]
    if -1 in places or places != sorted(set(places)) or not all(map(_plain, warpers)):
        start, warpers = len(processors), []
    options = {name: getattr(p, name) for p in warpers for kind, name in _FUSED if type(p) is kind}
    if not do_sample:
        options = {"temperature": 0.0}  # no warper changes the largest token
    return ProcessingPlan(LogitsProcessorList(processors[:start]), LogitsProcessorList(warpers), options)


def _plain(warper: Any) -> bool:
    """True if a warper drops tokens entirely and keeps at least one: all that the fused step offers."""
    filter_value = getattr(warper, "filter_value", -math.inf)
    return filter_value == -math.inf and getattr(warper, "min_tokens_to_keep", 1) == 1
