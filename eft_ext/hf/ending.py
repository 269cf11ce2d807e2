"""The behaviour's end-of-text tokens in a call that transformers has prepared with the first model's alone."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    EosTokenCriteria,
    ExponentialDecayLengthPenalty,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    StoppingCriteriaList,
)

from eft_ext.hf.arguments import as_list, ends_of
from eft_ext.hf.members import Member

_OF_ENDS = (ExponentialDecayLengthPenalty, MinLengthLogitsProcessor, MinNewTokensLengthLogitsProcessor)


def end_as_the_behaviour(members: tuple[Member, ...], ending: tuple[str, ...], prepared: dict[str, Any]) -> None:
    """Adds the ends of the `ending` models to what generate hands to a custom loop, unless the call brought its own.

    A custom loop sees the resolved settings only: ends that are the first model's count as not given.

    Args:
        prepared: with generation_config, stopping_criteria and logits_processor, each of which is replaced.
    """
    config, own, ends = prepared["generation_config"], ends_of(members[:1], ()), ends_of(members, ending)
    if ends == own or as_list(config.eos_token_id) != own:
        return
    prepared["generation_config"] = config = copy.copy(config)
    config.eos_token_id = ends
    others = [c for c in prepared["stopping_criteria"] if not isinstance(c, EosTokenCriteria)]
    prepared["stopping_criteria"] = StoppingCriteriaList([*others, EosTokenCriteria(eos_token_id=ends)])
    prepared["logits_processor"] = LogitsProcessorList(_ending(p, ends) for p in prepared["logits_processor"])


def _ending(processor: Any, ends: list[int]) -> Any:
    if type(processor) not in _OF_ENDS:
        return processor
    processor = copy.copy(processor)
    processor.eos_token_id = torch.tensor(ends, device=processor.eos_token_id.device)
    return processor
