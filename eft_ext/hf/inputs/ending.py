"""The behaviour's end-of-text tokens in a call that transformers has prepared with the first model's alone."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EosTokenCriteria,
    ExponentialDecayLengthPenalty,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    StoppingCriteriaList,
)

from eft_ext.hf.inputs.arguments import ends_of
from eft_ext.hf.inputs.token_ids import as_list
from eft_ext.hf.members import Member
from eft_ext.methods import MixingMethod

_OF_ENDS = (ExponentialDecayLengthPenalty, MinLengthLogitsProcessor, MinNewTokensLengthLogitsProcessor)


def end_as_the_behaviour(
    members: tuple[Member, ...], method: MixingMethod, input_ids: Tensor, prepared: dict[str, Any]
) -> None:
    """Gives what generate hands to a custom loop the ends of the method's texts, unless the call brought its own.

    A custom loop sees the resolved settings only: ends that are the first model's count as not given.

    Args:
        input_ids: the prompts.
        prepared: with generation_config, stopping_criteria and logits_processor, each of which is replaced.
    """
    config, own = prepared["generation_config"], set(ends_of(members[:1], ()))
    ends = ends_of(members, method.ending, None if method.special_tokens is None else method.special_tokens.means)
    if set(ends) == own or set(as_list(config.eos_token_id)) != own:
        return
    prepared["generation_config"] = copy.copy(config)
    prepared["generation_config"].eos_token_id = ends
    criteria = [c for c in prepared["stopping_criteria"] if not (isinstance(c, EosTokenCriteria) and _of(c) == own)]
    prepared["stopping_criteria"] = StoppingCriteriaList([*criteria, EosTokenCriteria(eos_token_id=ends)])
    processors = [_ending(p, own, ends) for p in prepared["logits_processor"]]
    if not own:  # transformers then makes none that keep a text from ending
        tokens: Any = torch.tensor(ends, device=input_ids.device)
        if least := config.min_length:
            processors.insert(0, MinLengthLogitsProcessor(least, tokens))
        if least := config.min_new_tokens:
            processors.insert(0, MinNewTokensLengthLogitsProcessor(input_ids.shape[1], least, tokens))
    prepared["logits_processor"] = LogitsProcessorList(processors)


def _of(criterion: Any) -> set[int]:
    return set(as_list(criterion.eos_token_id))


def _ending(processor: Any, own: set[int], ends: list[int]) -> Any:
    if type(processor) not in _OF_ENDS or _of(processor) != own:
        return processor
    processor = copy.copy(processor)
    processor.eos_token_id = torch.tensor(ends, device=processor.eos_token_id.device)
    return processor
