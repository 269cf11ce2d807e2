"""Named ways to make one distribution out of several models' logits (docs/guides/methods.md has the table).

A method says which models it needs and in which order, gives its weights over them, and checks itself. Every entry
takes one: `fused_mix(logits, method)`, `EmulatedModel(..., method=)`, `generate(..., method=)`, `custom_generate`,
`EFTLogitsProcessor` and `eft generate --method`.
"""

from typing import Any

from eft_ext.methods.conservative import Conservative
from eft_ext.methods.interpolate import Interpolate
from eft_ext.methods.mixing_method import MixingMethod
from eft_ext.methods.pairs import Contrast, Guidance, Plain, Realign
from eft_ext.methods.scaling import Amplify, DownScale, UpScale
from eft_ext.methods.weighted import Weighted
from eft_ext.ops.deprecated import note

__all__ = [
    "Amplify",
    "Conservative",
    "Contrast",
    "DownScale",
    "Guidance",
    "Interpolate",
    "MixingMethod",
    "Plain",
    "Realign",
    "UpScale",
    "Weighted",
]


def __getattr__(name: str) -> Any:
    if name == "Named":
        note("Named", "MixingMethod")
        return MixingMethod
    raise AttributeError(f"module 'eft_ext.methods' has no attribute {name!r}")
