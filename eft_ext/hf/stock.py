"""`custom_generate`: emulated fine-tuning inside an unchanged `large.generate(...)` call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer

from eft_ext.hf.decoder import decode
from eft_ext.hf.members import NAMES, members
from eft_ext.hf.mixture import Mixture
from eft_ext.hf.prompts import Prompt, encode
from eft_ext.hf.seeds import Seed
from eft_ext.hf.streaming import ended_by_errors
from eft_ext.hf.vocabulary import check_widths, warn_softcaps


def custom_generate(
    tuned: Any,
    base: Any = None,
    *,
    beta: Any = None,
    scale: Any = None,
    conservative_top_p: Any = None,
    streamer: BaseStreamer | None = None,
    tokenizer: Any = None,
) -> Callable[..., GenerateDecoderOnlyOutput | Tensor]:
    """Make a decoding loop for `large.generate(..., custom_generate=custom_generate(tuned, base))`.

    The options beta, scale, conservative_top_p, seed, speculate and prompts may also be given to `large.generate`
    itself and then count for that call. Two arguments of `generate` do not reach a custom loop: give `streamer` here
    instead of there, and stop strings as a `StopStringCriteria(tokenizer, ...)` among the stopping_criteria.

    Args:
        tuned, base: the small models; `tuned` may be a peft.PeftModel over `base`.
        beta, scale, conservative_top_p: as for EmulatedModel.
        streamer: receives the prompt, the new tokens and the end; for one row.
        tokenizer: needed only where `prompts` are text.

    Returns:
        A callable with the signature that transformers expects of custom_generate.
    """
    default = Mixture.choose(Mixture(), beta, scale, conservative_top_p)

    def emulated(
        model: Any,
        input_ids: Tensor,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
        seed: Seed | None = None,
        prompts: Mapping[str, Any] | None = None,
        speculate: int | str | None = None,
        **prepared: Any,
    ) -> GenerateDecoderOnlyOutput | Tensor:
        with ended_by_errors(streamer):
            three = members(model, tuned, base)
            check_widths(three, tokenizer)
            warn_softcaps(three)
            encoded = _encode_small(prompts or {}, tokenizer)
            if streamer is not None:
                streamer.put(input_ids.cpu())
            mixture = Mixture.choose(default, beta, scale, conservative_top_p)
            return decode(
                three,
                mixture,
                input_ids,
                prompts=encoded,
                seed=seed,
                streamer=streamer,
                speculate=speculate,
                **prepared,
            )

    return emulated


def _encode_small(prompts: Mapping[str, Any], tokenizer: Any) -> dict[str, Prompt]:
    for name in prompts:
        if name not in NAMES[1:]:
            raise ValueError(f"prompts: expected the keys tuned and base beside the call's input_ids, got {name!r}")
    pad = getattr(tokenizer, "pad_token_id", None)
    return {n: encode(f"prompts[{n!r}]", p, tokenizer, pad_token_id=pad) for n, p in prompts.items()}
