"""The step itself (numerics.md §1 to §5), token for token what every backend must return."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eft_ext.ops.deprecated import renamed_bitmask
from eft_ext.ops.params import ConservativeParams
from eft_ext.ops.reference.arithmetic import LN_2
from eft_ext.ops.reference.distribution import greedy_tokens, scaled_rows
from eft_ext.ops.reference.draw import draw, row_keys, survivors
from eft_ext.ops.reference.mass import ranked
from eft_ext.ops.reference.mixture import MixedLogits, mix
from eft_ext.ops.reference.options import RowOptions, not_negative, per_row, sampling_options
from eft_ext.ops.reference.philox import random_bits
from eft_ext.ops.results import StepDetails
from eft_ext.ops.special_tokens import SpecialTokens


def step(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float | Tensor],
    *,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
    conservative: ConservativeParams | None = None,
    special_tokens: SpecialTokens | None = None,
    bias: Tensor | None = None,
    token_bitmask: Tensor | None = None,
    seed: int | Tensor | None = None,
    position: int | Tensor | None = None,
    vocab_size: int | None = None,
    top_logprobs: int = 0,
    allowed: Tensor | None = None,
) -> StepDetails:
    """Mix, filter and sample one token per row.

    Args:
        logits, weights, bias, token_bitmask, vocab_size, conservative, special_tokens: as for `combine`.
        temperature, top_k, top_p, min_p: a number or a tensor [B]. Temperatures in [0, 2^-20) are greedy;
            top_k = 0, top_p = 1 and min_p = 0 are off.
        seed: an int, from which row b takes its key by `row_seed`, or int64 [B], each row's key as it stands
            (read as uint64). Greedy rows need none.
        position: an int or int64 [B], the tokens a row has generated so far.
        top_logprobs: how many of the first tokens of the rank to report.

    Greedy rows take the largest z, the lowest id on ties, and do not look at t. `raw_logprobs`, `entropy` and
    the first tokens concern every token with z > -inf, at temperature 1, whatever the filters and the
    temperature; `model_logprobs` know each model's own exclusions only. Where fewer tokens than `top_logprobs`
    exist, ids are -1 and log-probabilities -inf. Floating fields are computed in float64 and rounded once.

    Raises:
        ValueError: bad shapes, a bad number among the options, a row to sample without a seed, a seed without
            position.
    """
    token_bitmask = renamed_bitmask(token_bitmask, allowed)
    mixture = mix(logits, weights, bias, token_bitmask, vocab_size, conservative, special_tokens)
    options = sampling_options(mixture.z, temperature, top_k, top_p, min_p)
    if seed is not None and position is None:
        raise ValueError("position: expected one beside a seed, which would repeat one draw at every step")
    if position is not None:
        positions, positions_good = per_row(
            "position", position, mixture.z, torch.int64, not_negative, "an integer >= 0"
        )
        options = options._replace(good=options.good & positions_good)
    t, valid = scaled_rows(mixture, options)

    tokens = greedy_tokens(mixture.z)
    kept = torch.nn.functional.one_hot(tokens, t.shape[1]) == 1
    if bool((options.good & ~options.greedy).any()) and seed is None:
        raise ValueError("seed: expected one, because a row is sampled")
    rows = torch.nonzero(valid & ~options.greedy).flatten()
    if len(rows):
        left = survivors(t[rows], RowOptions(*(option[rows] for option in options)))
        keys = row_keys(seed, t.shape[0])
        bits = [random_bits(keys[b], int(positions[b])) for b in rows.tolist()]
        tokens[rows] = draw(left, bits)
        kept[rows] = left.kept
    return _details(mixture, t, tokens, kept, valid, top_logprobs)


def _details(
    mixture: MixedLogits, t: Tensor, tokens: Tensor, kept: Tensor, valid: Tensor, top_logprobs: int
) -> StepDetails:
    """Everything said of the drawn tokens; invalid rows are blanked last."""
    chosen = tokens[:, None]

    def of_token(logprobs: Tensor) -> Tensor:
        return logprobs.gather(1, chosen).squeeze(1)

    final = torch.log_softmax(torch.where(kept, t.double() * LN_2, -math.inf), dim=1)
    raw = torch.log_softmax(mixture.z.double(), dim=1)
    # In a valid row a NaN or +inf sits on a token that something else excludes: it counts for nothing here too.
    by_model = [torch.where(x < math.inf, x.double(), -math.inf) for x in mixture.models]
    models = [of_token(torch.log_softmax(x, dim=1)) for x in by_model]

    count = min(top_logprobs, t.shape[1])
    first = ranked(mixture.z + 0.0)[:, :count]
    first_logprobs = raw.gather(1, first)
    first = torch.where(mixture.z.gather(1, first) > -math.inf, first, -1)
    padding = (0, top_logprobs - count)
    first = torch.nn.functional.pad(first, padding, value=-1)
    first_logprobs = torch.nn.functional.pad(first_logprobs, padding, value=-math.inf)

    def blank(field: Tensor) -> Tensor:
        mask = valid if field.ndim == 1 else valid[:, None]
        return torch.where(mask, field, math.nan).float()

    return StepDetails(
        tokens=torch.where(valid, tokens, -1),
        logprobs=blank(of_token(final)),
        raw_logprobs=blank(of_token(raw)),
        model_logprobs=blank(torch.stack(models, dim=1)),
        entropy=blank(torch.special.entr(raw.exp()).sum(dim=1)),
        num_kept=torch.where(valid, kept.sum(dim=1), 0).int(),
        top_ids=torch.where(valid[:, None], first, -1),
        top_logprobs=blank(first_logprobs),
        status=(~valid).int(),
    )
