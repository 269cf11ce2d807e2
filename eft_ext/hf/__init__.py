"""The driver on transformers: one to four models that generate as one."""

from eft_ext._extras import needs

with needs("eft_ext.hf", "hf"):
    # First, while nothing of ours is half imported: behind it `eft_ext._registration` imports our classes.
    import transformers.models.auto.modeling_auto  # noqa: F401

    from eft_ext.config import EmulatedConfig
    from eft_ext.hf.causal_lm.cache import EmulatedCache
    from eft_ext.hf.causal_lm.model import EmulatedForCausalLM
    from eft_ext.hf.inputs.chats import SystemMessageWarning
    from eft_ext.hf.inputs.context import ContextWarning
    from eft_ext.hf.logits_processor import EFTLogitsProcessor
    from eft_ext.hf.model import EmulatedModel
    from eft_ext.hf.stock import custom_generate

__all__ = [
    "ContextWarning",
    "EFTLogitsProcessor",
    "EmulatedCache",
    "EmulatedConfig",
    "EmulatedForCausalLM",
    "EmulatedModel",
    "SystemMessageWarning",
    "custom_generate",
]
