"""Ways of generating that transformers has and the engine has not: its own loops, over the mixture's forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationConfig, GenerationMixin

from eft_ext.decoding.mixture import spread
from eft_ext.hf.inputs.arguments import setting
from eft_ext.hf.inputs.prompts import Prompt
from eft_ext.hf.inputs.rejected import OF_ONE_MODEL, OFF
from eft_ext.hf.runners.decode_plan import OTHER_LOOP, DecodePlan
from eft_ext.methods import MixingMethod

# Arguments of generate that ask for another loop.
_ARGUMENTS = ("assistant_model", "negative_prompt_ids", "synced_gpus", "custom_generate", "past_key_values")
_WHOLE_PROMPT = ("prefill_chunk_size", "assistant_model", "prompt_lookup_num_tokens")  # or drafts behind it
_ENGINE_ONLY = ("seed", "speculate", "tier")


def why_other_loop(lead: Any, config: GenerationConfig | None, kwargs: Mapping[str, Any]) -> str | None:
    """Names the first argument or setting that the engine has no loop for; None where it decodes.

    Args:
        lead: the first model, whose generation_config counts too.
    """
    if getattr(config, "is_assistant", False):
        return "is_assistant=True"  # its caches go back to the loop that it drafts for
    for name in _ARGUMENTS:
        if kwargs.get(name) is not None and kwargs[name] is not False:
            return name
    for name, off in OFF.items():
        value = setting(name, lead, config, kwargs)
        if value not in off and name not in OF_ONE_MODEL:
            return f"{name}={value!r}"
    return None


def generate_elsewhere(
    why: str,
    over_forward: Callable[[], Any],
    method: MixingMethod,
    prompt: Prompt,
    others: Mapping[str, Prompt],
    kwargs: dict[str, Any],
    options: Mapping[str, Any],
) -> Any:
    """The result of transformers' generate over the mixture's forward pass.

    Args:
        why: of `why_other_loop`.
        prompt: all models'.
        others: models' own prompts, which one forward pass cannot take.
        kwargs: of generate, with streamer and tokenizer.
        options: of the engine.

    Raises:
        ValueError: an option that only the engine has, or weights that do not fit the prompts.
    """
    if options.get("only_plan"):
        return DecodePlan(OTHER_LOOP, why, True, {}, refills=False)
    if others:
        raise ValueError(f"prompts: expected none for {min(others)} beside {why}, since one pass reads one prompt")
    for name in _ENGINE_ONLY:
        if options.get(name) is not None:
            raise ValueError(f"{name}: expected none beside {why}, which transformers decodes, got {options[name]!r}")
    if method.is_scheduled:
        raise ValueError(f"method: expected fixed parameters beside {why}, got functions of the step in {method!r}")
    model, config = over_forward(), kwargs.get("generation_config")
    beams, copies = (setting(name, model, config, kwargs) or 1 for name in ("num_beams", "num_return_sequences"))
    copies = copies if beams == 1 else 1
    method = method.mapped(lambda name, value: spread(name, value, len(prompt.ids) * copies, copies))
    for name in _WHOLE_PROMPT if method.last_token_only else ():
        if setting(name, model, config, kwargs) is not None:
            alone = method.last_token_only[0]
            raise ValueError(f"{name}: expected none, since {alone} reads the last token of the prompt alone")
    mask = {} if prompt.mask is None else {"attention_mask": prompt.mask.to(model.device)}
    given = {name: value for name, value in kwargs.items() if value is not None}
    with model.mixing(method):  # as an argument it would reach assistants too
        return GenerationMixin.generate(model, **{**given, "input_ids": prompt.ids.to(model.device), **mask})
