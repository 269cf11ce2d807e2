"""The parameters of a call, checked and normalised: what every backend is handed.

`check_params.py` makes them of a user's arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.special_tokens import SpecialMasks

EFT_NAMES = ("large", "tuned", "base")
# Temperatures that fp32 rounds to less than 2^-20 are greedy (numerics.md §2): from here on it rounds up to 2^-20.
GREEDY_BELOW = 2.0**-20 * (1 - 2.0**-25)
Weights = Tensor | Sequence[float | Tensor]


class Real(NamedTuple):
    """A floating option: `value` for every row, or `value * rows[b]`."""

    value: float
    rows: Tensor | None = None  # [B] fp32, any stride


class Integer(NamedTuple):
    """An integer option: `value` for every row, or `rows[b]`."""

    value: int
    rows: Tensor | None = None  # [B] int64, contiguous


OFF = Real(1.0)  # of a nucleus


class ConservativeParams(NamedTuple):
    """Conservative re-weighting of the up-scaling form (Mitchell et al., conservative decoding)."""

    top_p: float | Tensor  # scalar or [B]: the nucleus S of the defining model at temperature 1; 1 switches it off
    set: Literal["large", "tuned", "base"] = "tuned"  # whose own distribution defines S
    outside: Literal["keep", "drop"] = "keep"  # tokens outside S: z = tuned, or excluded


class MixParams(NamedTuple):
    """K models' logits and how they are combined (numerics.md §1)."""

    logits: tuple[Tensor, ...]  # K of [B, V_k]
    weights: tuple[Real, ...]  # K
    vocab_size: int
    conservative: int  # 0 off, else 1 + the index of the model that defines S
    drop_outside: bool
    conservative_top_p: Real
    bias: Tensor | None  # [V] or [B, V] fp32
    token_bitmask: Tensor | None  # [B, ceil(V / 32)] int32
    special: SpecialMasks | None = None  # tokens that the models do not share

    @property
    def batch(self) -> int:
        return self.logits[0].shape[0]

    @property
    def device(self) -> torch.device:
        return self.logits[0].device

    def select(self, rows: slice) -> MixParams:
        """The same for some of its rows."""

        def tensor(x: Tensor | None) -> Tensor | None:
            return x if x is None or x.dim() == 1 else x[rows]

        def option(real: Real) -> Real:
            return real if real.rows is None else real._replace(rows=real.rows[rows])

        return self._replace(
            logits=tuple(x[rows] for x in self.logits),
            weights=tuple(option(w) for w in self.weights),
            conservative_top_p=option(self.conservative_top_p),
            bias=tensor(self.bias),
            token_bitmask=tensor(self.token_bitmask),
        )


class SamplingParams(NamedTuple):
    """The options of a draw from the mixture (numerics.md §2 to §5)."""

    temperature: Real
    top_k: Integer
    top_p: Real
    min_p: Real
    seed: Integer
    position: Integer


class DraftParams(NamedTuple):
    """Proposals of a draft model, and the distribution they were drawn from."""

    drafts: Tensor  # [B, k] int64, contiguous
    logits: Tensor | None  # [B, k, V]; None where the drafts are certain
    lengths: Integer  # how many of a row's drafts count
    temperature: Real
    top_k: Integer
    top_p: Real
    min_p: Real


class ScoreParams(NamedTuple):
    """The options of scoring, beside the mixture and the targets (numerics.md §9)."""

    ignore_index: int
    compared: int  # the model that the mixture is compared with
    num_top: int
    num_changed: int


def tensors_of(mix: MixParams, *options: Real | Integer) -> list[Tensor]:
    """All tensors of a call, but for its results."""
    options = (*mix.weights, mix.conservative_top_p, *options)
    found = [mix.bias, mix.token_bitmask, *[option.rows for option in options], *(mix.special or ())[:2]]
    return [*mix.logits, *[x for x in found if x is not None]]
