"""The driver on transformers: one to four models that generate as one."""

from eft_ext._extras import needs

with needs("eft_ext.hf", "hf"):
    from eft_ext.hf.inputs.context import ContextWarning
    from eft_ext.hf.logits_processor import EFTLogitsProcessor
    from eft_ext.hf.model import EmulatedModel
    from eft_ext.hf.stock import custom_generate

__all__ = ["ContextWarning", "EFTLogitsProcessor", "EmulatedModel", "custom_generate"]
