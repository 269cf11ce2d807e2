"""Refuses what the driver does not do, with the argument's name and before any model has run."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from torch import Tensor
from transformers import GenerationConfig

_THREE_CACHES = "each model has its own cache"
_ONE_TOKEN = "the mixture is decoded one token at a time, greedily or sampled"

# Settings of the engine's loop: name -> (values that mean "off", why it has no other). Another loop may have them
# (`eft_ext.hf.generation.other_loops`).
_CONFIG: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((None, 1), _ONE_TOKEN),
    "num_beam_groups": ((None, 1), _ONE_TOKEN),
    "constraints": ((None,), _ONE_TOKEN),
    "force_words_ids": ((None,), _ONE_TOKEN),
    "penalty_alpha": ((None, 0, 0.0), "contrastive search is another method of decoding"),
    "dola_layers": ((None,), "DoLa is another method of decoding"),
    "prompt_lookup_num_tokens": ((None,), _ONE_TOKEN),
    "assistant_early_exit": ((None,), _ONE_TOKEN),
    "use_mtp": ((None, False), _ONE_TOKEN),
    "guidance_scale": ((None, 1, 1.0), "its second forward pass would see the first model alone"),
    "token_healing": ((None, False), "it rewrites the prompt of the first model alone"),
    "output_attentions": ((None, False), "each model has its own attentions"),
    "output_hidden_states": ((None, False), "each model has its own hidden states"),
    "cache_implementation": (
        # Static caches are what decoding here has by itself; the other names mean one of the two to transformers.
        (None, "hybrid", "sliding_window", "hybrid_chunked", "dynamic", "static"),
        _THREE_CACHES + ", static where its family allows it, beside its weights",
    ),
    "prefill_chunk_size": ((None,), "prompts are read in one piece"),
}
OFF = {name: off for name, (off, _) in _CONFIG.items()}
OF_ONE_MODEL = ("assistant_early_exit", "use_mtp")  # layers of one model, in any loop
_OF_ENGINE: dict[str, str] = {  # what only other loops take
    "assistant_tokenizer": _ONE_TOKEN,
    "negative_prompt_attention_mask": "it belongs to negative_prompt_ids",
    "position_ids": "they follow from attention_mask, for each model by itself",
}
_ARGUMENTS: dict[str, str] = {
    "inputs_embeds": "each model has its own embeddings; pass input_ids",
    "pixel_values": "the models share only token ids",
    "pixel_values_videos": "the models share only token ids",
    "token_type_ids": "not every model need know them",
}


_NUMBERS = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "max_time"),
    *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("max_new_tokens", "max_length", "min_new_tokens", "min_length", "num_return_sequences", "guidance_scale"),
)


def reject_arguments(arguments: Mapping[str, Any], config: GenerationConfig | None, *, by_engine: bool) -> None:
    """Raise ValueError for an argument of transformers' generate, or a setting, that no loop over several models has.

    Args:
        config: as given.
        by_engine: also for what only other loops than the engine's take.
    """
    for name, reason in (_ARGUMENTS | _OF_ENGINE if by_engine else _ARGUMENTS).items():
        value = arguments.get(name)
        if value is not None and value is not False:
            raise ValueError(f"{name}: not supported by emulated fine-tuning ({reason})")
    for settings in (arguments, {} if config is None else vars(config)):
        _reject_rows(settings)
        for name in OF_ONE_MODEL:
            _reject(name, settings.get(name))
        _check_top_p(settings.get("top_p"))


def _reject_rows(values: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that is a number to transformers and has one value for each row here."""
    for name in _NUMBERS:
        value = values.get(name)
        if value is not None and not isinstance(value, Real):
            got = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}: expected a number, which all rows of a call have in common, got {got}")


def reject_config(config: GenerationConfig) -> None:
    """Raise ValueError for a setting, as transformers has resolved it, that the engine does not support."""
    _reject_rows(vars(config))
    for name in _CONFIG:
        _reject(name, getattr(config, name, None))
    _check_top_p(config.top_p)


def _check_top_p(value: float | None) -> None:
    """Raise ValueError for a mass that is none: transformers ignores one above 1."""
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"top_p: expected a number between 0 and 1, got {value}")


def _reject(name: str, value: Any) -> None:
    off, reason = _CONFIG[name]
    if value is not None and value not in off:
        raise ValueError(f"{name}: expected {off[-1]!r} or nothing, got {value!r}; not supported: {reason}")
