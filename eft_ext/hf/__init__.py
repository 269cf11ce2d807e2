"""The driver on transformers: one to four models that generate as one."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eft_ext import _registration
from eft_ext._extras import needs

with needs("eft_ext.hf", "hf"):
    import transformers  # noqa: F401

if TYPE_CHECKING:
    from eft_ext.hf.causal_lm.cache import EmulatedCache
    from eft_ext.hf.causal_lm.model import EmulatedForCausalLM
    from eft_ext.hf.checkpoint.config import EmulatedConfig
    from eft_ext.hf.inputs.context import ContextWarning
    from eft_ext.hf.logits_processor import EFTLogitsProcessor
    from eft_ext.hf.model import EmulatedModel
    from eft_ext.hf.stock import custom_generate

# Each is imported at its first use: a checkpoint's configuration is read without what generates.
_HOMES = {
    "ContextWarning": "inputs.context",
    "EFTLogitsProcessor": "logits_processor",
    "EmulatedCache": "causal_lm.cache",
    "EmulatedConfig": "checkpoint.config",
    "EmulatedForCausalLM": "causal_lm.model",
    "EmulatedModel": "model",
    "custom_generate": "stock",
}

__all__ = [
    "ContextWarning",
    "EFTLogitsProcessor",
    "EmulatedCache",
    "EmulatedConfig",
    "EmulatedForCausalLM",
    "EmulatedModel",
    "custom_generate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'eft_ext.hf' has no attribute {name!r}")
    with needs("eft_ext.hf", "hf"):
        found = getattr(import_module(f"eft_ext.hf.{_HOMES[name]}"), name)
    _registration.register()
    return found
