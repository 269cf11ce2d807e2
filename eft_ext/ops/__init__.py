"""Operations on logits: check, choose a backend, launch. Nothing here knows of models."""

from eft_ext.ops import reference
from eft_ext.ops.backends.native import force_isa
from eft_ext.ops.backends.registry import Backend
from eft_ext.ops.results import Score, StepDetails, VerifyResult
from eft_ext.ops.score import fused_score, fused_score_mix
from eft_ext.ops.special_tokens import SpecialTokens
from eft_ext.ops.step import combine, fused_mix, fused_step
from eft_ext.ops.verify import fused_verify

__all__ = [
    "Backend",
    "Score",
    "SpecialTokens",
    "StepDetails",
    "VerifyResult",
    "combine",
    "force_isa",
    "fused_mix",
    "fused_score",
    "fused_score_mix",
    "fused_step",
    "fused_verify",
    "reference",
]
