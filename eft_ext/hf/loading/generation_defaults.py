"""The generation settings that come with a model, beyond its special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

# Of a model's generation_config: its special tokens.
_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version")


def set_aside(config: Any) -> dict[str, Any]:
    """Gives everything but special tokens its default in a generation_config.

    Returns:
        The old values, as JSON has them.
    """
    default = vars(GenerationConfig())
    own = {name: value for name, value in vars(config).items() if not (name in _KEPT or name.startswith("_"))}
    # transformers writes False where nothing was said, and True of the cache.
    said = {name: value for name, value in own.items() if value is not (name == "use_cache")}
    unused = {name: value for name, value in said.items() if value is not None and value != default.get(name)}
    for name in unused:
        setattr(config, name, default.get(name))
    found: dict[str, Any] = json.loads(json.dumps(unused, default=str))
    return found


def listed(unused: Mapping[str, Any]) -> str:
    """Settings as a line says them."""
    return ", ".join(f"{name} {_short(value)}" for name, value in unused.items())


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
