"""Methods of two distributions, and of one: contrast, realignment, guidance, and plain sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from eft_ext.methods.mixing_method import MixingMethod
from eft_ext.methods.values import linear
from eft_ext.ops.fork_safety import one_thread_if_forked
from eft_ext.ops.inputs import check_real
from eft_ext.ops.method import Number


class Contrast(MixingMethod):
    """z = (1 + beta)·expert − beta·amateur, over the tokens that the expert finds plausible: contrastive decoding.

    O'Brien and Lewis 2023 (arXiv 2309.09117), after Li et al. 2023 (arXiv 2210.15097). A token is plausible if its
    probability under the expert is at least `plausibility` times that of the expert's likeliest token. On the expert's
    logits this is x ≥ max x + log(plausibility), since the normaliser cancels. It is applied before mixing, with one
    more read of the expert's logits. The step's `min_p` is no substitute: it compares probabilities of the mixture.
    beta = 0 is the expert (under the constraint).

    Args:
        beta: strength of the contrast; a number, one per row, or a function of the step.
        plausibility: from 0 (off) to 1; likewise. Both papers use 0.1.

    Raises:
        TypeError, ValueError: not finite, not numbers, a plausibility outside [0, 1].
    """

    formula = "(1 + beta)·expert − beta·amateur"
    roles = ("expert", "amateur")
    ends = ("expert",)
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"plausibility": (0.0, 1.0)}

    def __init__(self, beta: Any = 0.5, plausibility: Any = 0.1) -> None:
        super().__init__(beta=beta, plausibility=plausibility)

    def weights(self) -> tuple[Number, ...]:
        beta = self.number("beta")
        return linear(1.0, (1.0, beta)), linear(0.0, (-1.0, beta))

    def prepare(self, logits: Sequence[Tensor], vocab_size: int | None = None) -> Sequence[Tensor]:
        share = self.number("plausibility")
        if not isinstance(share, Tensor) and share == 0.0:
            return logits
        expert = logits[0][:, : min(x.shape[1] for x in logits) if vocab_size is None else vocab_size]
        log: float | Tensor
        if isinstance(share, Tensor):
            rows = check_real("plausibility", share, len(expert), expert.device).rows
            assert rows is not None
            log = torch.where((rows >= 0) & (rows <= 1), rows, math.nan).double().log()[:, None]
        else:
            log = math.log(share)
        with one_thread_if_forked():
            exact = expert.amax(dim=-1, keepdim=True).double() + log  # [B, 1]
            floor = exact.float()
            floor = torch.where(floor.double() < exact, floor.nextafter(torch.full_like(floor, math.inf)), floor)
            # NaN among the logits, or a share that is none, keeps nothing: the step finds the row invalid.
            return [torch.where(expert >= floor, expert, -math.inf), *logits[1:]]


class Realign(MixingMethod):
    """z = (1 − λ)·reference + λ·aligned: decoding-time realignment between two checkpoints.

    Liu et al. 2024 (DeRa, arXiv 2402.02992): π ∝ π_reference^(1−λ)·π_aligned^λ, as if the model had been aligned with
    1/λ of the KL penalty. λ = 0 is the reference, 1 the aligned model; more than 1 extrapolates, and
    below 0 is emulated disalignment (Zhou et al. 2024, arXiv 2402.12343).

    Args:
        share: λ; a number, one per row, or a function of the step.

    Raises:
        TypeError, ValueError: not finite, not numbers.
    """

    formula = "reference + share·(aligned − reference)"
    roles = ("reference", "aligned")
    ends = ("reference", "aligned")
    adapter_base = "reference"

    def __init__(self, share: Any = 1.0) -> None:
        super().__init__(share=share)

    def weights(self) -> tuple[Number, ...]:
        share = self.number("share")
        return linear(1.0, (-1.0, share)), linear(0.0, (1.0, share))


class Guidance(MixingMethod):
    """z = unconditional + scale·(conditional − unconditional): classifier-free guidance, one model and two prompts.

    Sanchez et al. 2023 (arXiv 2306.17806). Both are one model that reads two prompts: the conditional one your prompt,
    the unconditional one a negative prompt or, as in transformers' `guidance_scale`, the last token of your prompt.
    scale = 1 is the model itself, scale = 0 the model after the unconditional prompt.

    Args:
        scale: strength of the guidance; a number, one per row, or a function of the step.

    Raises:
        TypeError, ValueError: not finite, not numbers.
    """

    formula = "unconditional + scale·(conditional − unconditional)"
    roles = ("conditional", "unconditional")
    ends = ("conditional",)
    last_token_only = ("unconditional",)

    def __init__(self, scale: Any = 1.5) -> None:
        super().__init__(scale=scale)

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        return {"model": self.roles}

    def weights(self) -> tuple[Number, ...]:
        scale = self.number("scale")
        return linear(0.0, (1.0, scale)), linear(1.0, (-1.0, scale))


class Plain(MixingMethod):
    """z = model: plain sampling from one model, with the same step."""

    formula = "model"
    roles = ("model",)
    ends = ("model",)

    def __init__(self) -> None:
        super().__init__()

    def weights(self) -> tuple[Number, ...]:
        return (1.0,)
