"""`custom_generate`: emulated fine-tuning inside an unchanged `large.generate(...)` call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer

from eft_ext.hf.generation.decode import decode, ended_by_errors
from eft_ext.hf.inputs.arguments import prompts_of
from eft_ext.hf.inputs.choose_method import choose_method, method_of
from eft_ext.hf.inputs.ending import end_as_the_behaviour
from eft_ext.hf.inputs.seeds import Seed
from eft_ext.hf.inputs.vocabulary import check_widths, warn_softcaps
from eft_ext.hf.inputs.words import Words
from eft_ext.hf.members import check_modes, members_of
from eft_ext.methods import MixingMethod


def custom_generate(
    tuned: Any = None,
    base: Any = None,
    *,
    beta: Any = None,
    scale: Any = None,
    conservative_top_p: Any = None,
    method: MixingMethod | None = None,
    streamer: BaseStreamer | None = None,
    tokenizer: Any = None,
    **models: Any,
) -> Callable[..., GenerateDecoderOnlyOutput | Tensor]:
    """Makes a decoding loop for `large.generate(..., custom_generate=custom_generate(tuned, base))`.

    The options beta, scale, conservative_top_p, method, seed, speculate, tier and prompts may also be given to
    `large.generate` itself and then count for that call. Two arguments of `generate` do not reach a custom loop: give
    `streamer` here instead of there, and stop strings as a `StopStringCriteria(tokenizer, ...)` among the
    stopping_criteria. As in EmulatedModel, the end-of-text tokens of tuned end a row too, unless you pass
    `eos_token_id`.

    Args:
        tuned, base: the small models; `tuned` may be a peft.PeftModel over `base`, or {name: model} for interpolation.
            If `tuned` is an adapter on the generating model, that model runs with the adapter off.
        beta, scale, conservative_top_p, method: as for EmulatedModel. The model that generates is the method's first.
        streamer: receives the prompt, the new tokens and the end; for one row.
        tokenizer: needed only where `prompts` are text.
        models: by name, where the method's are others (`amateur=...`).

    Returns:
        A callable with the signature that transformers expects of custom_generate.
    """
    default = method_of(tuned, beta, scale, conservative_top_p, method)
    given = {"tuned": tuned, "base": base, **models}

    def emulated(
        model: Any,
        input_ids: Tensor,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
        method: MixingMethod | None = None,
        seed: Seed | None = None,
        prompts: Mapping[str, Any] | None = None,
        speculate: int | str | None = None,
        tier: str | int | None = None,
        **prepared: Any,
    ) -> GenerateDecoderOnlyOutput | Tensor:
        with ended_by_errors(streamer):
            method = choose_method(default, beta, scale, conservative_top_p, method)
            names = method.models
            found = members_of(method, _led_by(model, method, given))
            check_modes(found)
            check_widths(found, Words.one(tokenizer, method))
            warn_softcaps(found)
            encoded = prompts_of(method, prompts, dict.fromkeys(names, tokenizer), names[1:])
            end_as_the_behaviour(found, method, input_ids, prepared)
            if streamer is not None:
                streamer.put(input_ids.cpu())
            return decode(
                found,
                method,
                input_ids,
                prompts=encoded,
                seed=seed,
                streamer=streamer,
                speculate=speculate,
                tier=tier,
                **prepared,
            )

    return emulated


def _led_by(model: Any, method: MixingMethod, given: Mapping[str, Any]) -> dict[str, Any]:
    """The models by name, `model` being the first, and every one that the method runs on the same model."""
    same = next((names for names in method.groups.values() if method.models[0] in names), method.models[:1])
    return dict.fromkeys(same, model) | {name: m for name, m in given.items() if m is not None}
