"""Finds the logits processors that ran on the first model's logits alone, before `EFTLogitsProcessor` mixed them."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import transformers as t
from transformers import LogitsProcessorList

_SETTINGS = {  # that transformers puts before any processor of the caller's
    t.RepetitionPenaltyLogitsProcessor: "repetition_penalty",
    t.EncoderRepetitionPenaltyLogitsProcessor: "encoder_repetition_penalty",
    t.ExponentialDecayLengthPenalty: "exponential_decay_length_penalty",
    t.ForcedBOSTokenLogitsProcessor: "forced_bos_token_id",
    t.ForcedEOSTokenLogitsProcessor: "forced_eos_token_id",
    t.InfNanRemoveLogitsProcessor: "remove_invalid_values",
    t.SequenceBiasLogitsProcessor: "sequence_bias",
    t.UnbatchedClassifierFreeGuidanceLogitsProcessor: "guidance_scale",
}
_EXCLUDING = (  # a token that large cannot take is none of a weighted sum's either
    t.EncoderNoRepeatNGramLogitsProcessor,
    t.MinLengthLogitsProcessor,
    t.MinNewTokensLengthLogitsProcessor,
    t.NoBadWordsLogitsProcessor,
    t.NoRepeatNGramLogitsProcessor,
    t.PrefixConstrainedLogitsProcessor,
    t.SuppressTokensAtBeginLogitsProcessor,
    t.SuppressTokensLogitsProcessor,
)


def ran_before(processor: Any, *, weighted: bool) -> list[str]:
    """Settings, or classes, of the processors that have changed the logits which `processor` is being called with.

    A processor is told nothing of the others: the list that holds it is looked for among its callers.

    Args:
        weighted: the mixture is a weighted sum, to which it does not matter where tokens are excluded.
    """
    found = _list_of(processor)
    place = next((i for i, other in enumerate(found) if other is processor), 0)
    earlier = [type(other) for other in found[:place]]
    return [_SETTINGS.get(kind, kind.__name__) for kind in earlier if not (weighted and kind in _EXCLUDING)]


def _list_of(processor: Any) -> list[Any]:
    frame: FrameType | None = sys._getframe(1)
    for _ in range(8):  # ours, those of torch's decorators, then the list's
        if frame is None:
            break
        caller = frame.f_locals.get("self")
        if isinstance(caller, LogitsProcessorList) and any(other is processor for other in caller):
            return list(caller)
        frame = frame.f_back
    return []
