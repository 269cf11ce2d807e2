"""A cache of checked calls, for a loop whose next call differs in addresses, seed and position only.

Checking and converting a call takes over 20 µs in Python, a quarter of one row's step on the CPU. A loop makes the same
call for every token, so the prepared call is cached under all that its checks looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eft_ext.ops.backends import native
from eft_ext.ops.params import GREEDY_BELOW, MixParams, SamplingParams
from eft_ext.ops.seeds import random_seed
from eft_ext.ops.special_tokens import SpecialTokens
from eft_ext.ops.tracing import is_tracing

MAX_CACHED_CALLS = 256  # calls; a loop needs one
_SCALARS = frozenset((float, int, str, type(None), SpecialTokens, tuple))
_calls: dict[Any, tuple[Any, bool]] = {}


def cache_key(logits: tuple[Tensor, ...], options: tuple[Any, ...], seed: Any, position: Any, out: Any) -> Any:
    """Returns all that the checks of a call look at, or None where a call has to be checked each time.

    `options` are all the others; only plain numbers and names can be compared without reading a tensor.
    """
    if seed is None:
        if position is not None:
            return None
    elif type(seed) is not int or type(position) is not int or not (0 <= position < 2**63 and 0 <= seed < 2**63):
        return None
    kinds = tuple(map(type, options))
    if not _SCALARS.issuperset(kinds) or is_tracing():
        return None
    like: list[Any] = [kinds, options]
    try:
        for x in logits:
            if type(x) is not Tensor or x.is_neg():
                return None
            like += (x.shape, x.stride(), x.dtype, x.device)
    except RuntimeError:  # a sparse tensor has no strides
        return None
    if not logits[0].is_cpu and (not logits[0].is_cuda or torch.cuda.is_current_stream_capturing()):
        return None  # a graph has a workspace of its own; what it may hold is said where all is checked
    if out is not None:
        if type(out) is not Tensor or out.dtype is not torch.int64 or not out.is_contiguous():
            return None
        if out.is_neg() or not out.data_ptr() or out.device != logits[0].device or out.shape != logits[0].shape[:1]:
            return None  # said where everything is checked
    return tuple(like)


def store(key: Any, mix: MixParams, sampling: SamplingParams) -> None:
    """Remembers a call that was checked and runs on the native step."""
    if len(_calls) >= MAX_CACHED_CALLS:
        _calls.clear()
    _calls[key] = native.prepare(mix, sampling), sampling.temperature.value < GREEDY_BELOW


def run_cached(key: Any, logits: Sequence[Tensor], seed: Any, position: Any, out: Tensor | None) -> Any:
    """The tokens [B], or None if no such call is cached."""
    found = _calls.get(key)
    if found is None:
        return None
    addresses = [*map(Tensor.data_ptr, logits)]
    if 0 in addresses:
        return None  # zeros that torch has not written
    prepared, greedy = found
    first = logits[0]
    if seed is None:
        seed, position = 0 if greedy else random_seed(None), 0
    tokens = torch.empty(first.shape[0], dtype=torch.int64, device=first.device) if out is None else out
    if first.is_cuda:
        native.run_next(prepared, first.device, tokens, seed, position, addresses)
    else:
        prepared.run_next(native.isa(), tokens.data_ptr(), seed, position, *addresses)
    return tokens
