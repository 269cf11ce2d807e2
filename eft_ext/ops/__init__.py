"""Operations on logits: check, choose a backend, launch. Nothing here knows of models."""

from eft_ext.ops import reference
from eft_ext.ops.backend import Backend, backends
from eft_ext.ops.details import StepDetails
from eft_ext.ops.native import force_isa
from eft_ext.ops.score import fused_score, fused_score_mix
from eft_ext.ops.scores import Score
from eft_ext.ops.step import combine, fused_mix, fused_step

__all__ = [
    "Backend",
    "Score",
    "StepDetails",
    "backends",
    "combine",
    "force_isa",
    "fused_mix",
    "fused_score",
    "fused_score_mix",
    "fused_step",
    "reference",
]
