"""One call of `EmulatedModel.generate`: settled here, prepared by transformers, and decoded by `decode`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

from eft_ext.hf.generation.decode import decode, ended_by_errors
from eft_ext.hf.generation.other_loops import generate_elsewhere, why_other_loop
from eft_ext.hf.generation.speculation import IF_POSSIBLE
from eft_ext.hf.inputs.arguments import add_ends, add_stop_strings
from eft_ext.hf.inputs.rejected import reject_arguments
from eft_ext.hf.models import Models

WEIGHTS = ("beta", "scale", "conservative_top_p", "method")
_OWN = ("prompts", "tokenizer", "streamer", "generation_config", *WEIGHTS)  # what transformers' generate is not given
_DECODERS = ("seed", "tier", "speculate")  # what `decode` takes as it is


def call(
    models: Models,
    inputs: Any,
    arguments: dict[str, Any],
    *,
    over_forward: Callable[[], Any],
    **options: Any,
) -> Any:
    """Returns what `decode` does with `options` for the arguments of `generate` (None where one is not given).

    Args:
        over_forward: makes the model of transformers over the same weights, whose own loops generate in the ways that
            the engine does not (see `eft_ext.hf.generation.other_loops`).
    """
    prompts, tokenizer, streamer, config, *weights = (arguments.get(name) for name in _OWN)
    options = {name: arguments.get(name) for name in _DECODERS} | options
    kwargs = {name: value for name, value in arguments.items() if name not in (*_OWN, *_DECODERS)}
    with ended_by_errors(streamer):
        lead = models.members[0]
        why = why_other_loop(lead.model, config, kwargs)
        reject_arguments(kwargs, config, by_engine=why is None)
        models.revalidate()
        method = models.chosen(*weights)
        kwargs["generation_config"] = config = copy.deepcopy(config)
        encoded = models.encode(inputs, prompts, kwargs, method, tokenizer=tokenizer)
        tokenizer = tokenizer if tokenizer is not None else models.tokenizer
        own = encoded.pop(lead.name)
        add_ends(models.members, method.ending, config, kwargs, models.means(method))
        add_stop_strings(lead.model, config, kwargs, tokenizer)
        if why is not None:
            if options["speculate"] == IF_POSSIBLE:
                options["speculate"] = None
            kwargs |= {"streamer": streamer, "tokenizer": tokenizer}
            return generate_elsewhere(why, over_forward, method, own, encoded, kwargs, options)
        kwargs["input_ids"] = own.ids.to(models.device)
        if own.mask is not None:
            kwargs["attention_mask"] = own.mask.to(models.device)
        if models.device.type == "cuda":
            options["engines"] = models.engines

        # transformers reads this signature: an option named in it would be taken out of kwargs.
        def emulated(model: Any, input_ids: Tensor, **prepared: Any) -> Any:
            return decode(models.members, method, input_ids, prompts=encoded, streamer=streamer, **options, **prepared)

        shown = None if options.get("only_plan") else streamer  # transformers puts the prompt into it
        return lead.model.generate(streamer=shown, custom_generate=emulated, **kwargs)
