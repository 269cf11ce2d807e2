"""Emulated fine-tuning at decode time: several language models as one, sampled by a fused native step.

    log p = log p_large + beta * (log p_tuned - log p_base)

The operations (`fused_step`, `fused_mix`, `combine`, `reference`) and the `methods` need torch alone and are loaded at
once; the driver on transformers (`EmulatedModel`, `EmulatedForCausalLM`, `custom_generate`, `EFTLogitsProcessor`) is
loaded at its first use. transformers' Auto classes know the checkpoints of `eft pack` from here on.
"""

from eft_ext import _interrupt  # noqa: F401  (watches for Ctrl-C, on the command line, while the rest is imported)

# isort: split
from typing import TYPE_CHECKING, Any

from eft_ext import _registration, methods
from eft_ext._extras import needs
from eft_ext._version import __version__
from eft_ext.ops import (
    Backend,
    Score,
    SpecialTokens,
    StepDetails,
    VerifyResult,
    combine,
    fused_mix,
    fused_score,
    fused_score_mix,
    fused_step,
    fused_verify,
    reference,
)
from eft_ext.ops.backends.registry import backends

if TYPE_CHECKING:
    from eft_ext.hf import (
        EFTLogitsProcessor,
        EmulatedCache,
        EmulatedConfig,
        EmulatedForCausalLM,
        EmulatedModel,
        custom_generate,
    )

_DRIVER = (
    *("EFTLogitsProcessor", "EmulatedCache", "EmulatedConfig", "EmulatedForCausalLM", "EmulatedModel"),
    "custom_generate",
)

__all__ = [
    "Backend",
    "EFTLogitsProcessor",
    "EmulatedCache",
    "EmulatedConfig",
    "EmulatedForCausalLM",
    "EmulatedModel",
    "Score",
    "SpecialTokens",
    "StepDetails",
    "VerifyResult",
    "__version__",
    "backends",
    "combine",
    "custom_generate",
    "fused_mix",
    "fused_score",
    "fused_score_mix",
    "fused_step",
    "fused_verify",
    "methods",
    "reference",
]


def __getattr__(name: str) -> Any:
    if name in _DRIVER:
        with needs(f"eft_ext.{name}", "hf"):
            import transformers  # noqa: F401
        from eft_ext import hf

        return getattr(hf, name)
    raise AttributeError(f"module 'eft_ext' has no attribute {name!r}")


_registration.register()
