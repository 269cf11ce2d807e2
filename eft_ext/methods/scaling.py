"""Up-scaling, down-scaling and amplification: emulated fine-tuning of Mitchell et al. 2023 (arXiv 2310.12962).

π ∝ π_ref^N · (π^M / π_ref^M): the knowledge of pre-training scale N, the behaviour of fine-tuning at scale M.
"""

from __future__ import annotations

from typing import Any

from eft_ext.methods.mixing_method import MixingMethod
from eft_ext.ops.method import Number


class UpScale(MixingMethod):
    """z = large + beta·(tuned − base): a large model behaves as a small one was fine-tuned to.

    The paper's EFT with N > M; beta is proxy-tuning's alpha (Liu et al. 2024, arXiv 2401.08565) and the inverse of the
    strength of the emulated KL constraint. beta = 0 is the large model, beta = 1 with large equal to base is tuned.

    Args:
        beta: weight of the behaviour; a number, one per row, or a function of the step.

    Raises:
        TypeError, ValueError: not finite, not numbers.
    """

    formula = "large + beta·(tuned − base)"
    roles = ("large", "tuned", "base")
    ends = ("large", "tuned")
    adapter_base = "base"

    def __init__(self, beta: Any = 1.0) -> None:
        super().__init__(beta=beta)

    @property
    def is_one(self) -> bool:
        """True if beta is 1 in every row: the form then is also tuned + scale·(large − base)."""
        beta = self.parameters["beta"]
        return isinstance(beta, float) and beta == 1.0

    def weights(self) -> tuple[Number, ...]:
        beta = self.number("beta")
        return 1.0, beta, -beta


class DownScale(UpScale):
    """z = small + beta·(tuned − base): a small model behaves as a large one was fine-tuned to.

    The paper's EFT with N < M: the same formula as `UpScale`, but tuned and base are the *large* pair here. It shows
    what fine-tuning at scale contributes by itself; it is no faster than the large models.

    Args:
        beta: weight of the behaviour; a number, one per row, or a function of the step.

    Raises:
        TypeError, ValueError: not finite, not numbers.
    """

    formula = "small + beta·(tuned − base)"
    roles = ("small", "tuned", "base")
    ends = ("small", "tuned")


class Amplify(MixingMethod):
    """z = tuned + scale·(large − base): more of what the large model knows than plain up-scaling brings.

    The paper's amplified up-scaling, log π̃ = log π_tuned + β·(log π_large − log π_base), with 1.5 the best of
    1, 1.2 and 1.5 on HumanEval. scale = 1 is `UpScale(1)`, scale = 0 the tuned model.

    Args:
        scale: weight of the up-scaling delta; a number, one per row, or a function of the step.

    Raises:
        TypeError, ValueError: not finite, not numbers.
    """

    formula = "tuned + scale·(large − base)"
    roles = ("large", "tuned", "base")
    ends = ("large", "tuned")
    adapter_base = "base"

    def __init__(self, scale: Any = 1.0) -> None:
        super().__init__(scale=scale)

    def weights(self) -> tuple[Number, ...]:
        scale = self.number("scale")
        return scale, 1.0, -scale
