"""Conservative re-weighting against its formula in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from eft_ext.ops.params import ConservativeParams
from eft_ext.ops.reference import combine, distribution, step
from python_tests.helpers.rows import models


def nucleus(logits: Tensor, q: float) -> Tensor:
    """Tokens with less than q of probability ranked above them, the first always, bool [B, V]."""
    p = torch.softmax(logits.double(), dim=1)
    order = torch.argsort(logits, dim=1, descending=True, stable=True)
    above = p.gather(1, order).cumsum(dim=1) - p.gather(1, order)
    inside = above < torch.tensor(q).double() * (1 - 2.0**-21)  # from there on q is reached
    inside[:, 0] = True
    return torch.zeros_like(inside).scatter(1, order, inside)


@pytest.mark.parametrize("q", [0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("scale", [1.0, 1.7])
@pytest.mark.parametrize("defining", ["large", "tuned", "base"])
def test_the_formula(q: float, scale: float, defining: str) -> None:
    x = models("lm", 3, 4, 3000)
    large, tuned, base = (v.double() for v in x)
    s = torch.tensor(scale).double()
    inside = nucleus(dict(zip(("large", "tuned", "base"), x, strict=True))[defining], q)
    up = tuned + s * (torch.log_softmax(large, dim=1) - torch.log_softmax(base, dim=1))
    bias = torch.linspace(-1, 1, 3000)

    z = combine(x, [scale, 1.0, -scale], bias=bias, conservative=ConservativeParams(q, defining))
    torch.testing.assert_close(z.double(), torch.where(inside, up, tuned) + bias, rtol=1e-6, atol=2e-5)
    dropped = combine(x, [scale, 1.0, -scale], bias=bias, conservative=ConservativeParams(q, defining, "drop"))
    assert torch.equal(dropped, torch.where(inside, z, -math.inf))
    outside = (tuned.float() + bias)[~inside]
    assert torch.equal(z[~inside], outside)


def test_one_switches_it_off_row_by_row() -> None:
    x = models("lm", 3, 3, 500)
    weights = [1.5, 1.0, -1.5]
    q = torch.tensor([1.0, 0.9, 1.0])
    z = combine(x, weights, conservative=ConservativeParams(q))
    plain, all_on = combine(x, weights), combine(x, weights, conservative=ConservativeParams(0.9))
    assert torch.equal(z[[0, 2]], plain[[0, 2]])
    assert torch.equal(z[1], all_on[1])


def test_masks_and_bias_do_not_move_the_nucleus() -> None:
    x = models("lm", 3, 2, 64)
    inside = nucleus(x[1], 0.8)
    token_bitmask = torch.full((2, 2), 0x55555555, dtype=torch.int32)
    bias = 50.0 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    drop = ConservativeParams(0.8, outside="drop")
    z = combine(x, [1.0, 1.0, -1.0], conservative=drop, token_bitmask=token_bitmask, bias=bias)
    even = torch.arange(64) % 2 == 0
    assert torch.equal(z > -math.inf, inside & even)


def test_a_token_excluded_in_one_model_is_excluded_throughout() -> None:
    x = models("lm", 3, 2, 64)
    x[0][:, 5], x[2][:, 6] = -math.inf, torch.finfo(torch.float32).min
    z = combine(x, [1.0, 1.0, -1.0], conservative=ConservativeParams(0.9))
    assert (z == -math.inf).nonzero()[:, 1].tolist() == [5, 6, 5, 6]
    assert not bool(z.isnan().any())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("model", [0, 1, 2])
def test_rows_that_define_nothing_are_invalid(value: float, model: int) -> None:
    x = models("lm", 3, 3, 64)
    x[(model + 1) % 3][:, 5] = -math.inf  # token 5 is excluded, but its NaN or +inf still spoils the normaliser
    x[model][1, slice(None) if value == -math.inf else 5] = value
    details = step(x, [1.0, 1.0, -1.0], seed=1, position=0, conservative=ConservativeParams(0.9))
    assert details.status.tolist() == [0, 1, 0]
    assert details.tokens[1] == -1
    probs = distribution(x, [1.0, 1.0, -1.0], conservative=ConservativeParams(0.9))
    assert probs.isnan().all(dim=1).tolist() == [False, True, False]


def test_bad_options() -> None:
    x = models("lm", 3, 3, 64)
    weights = [1.0, 1.0, -1.0]
    for q in (-0.1, 1.1, math.nan):
        rows = torch.tensor([0.5, q, 1.0])
        assert combine(x, weights, conservative=ConservativeParams(rows)).isnan().all(dim=1).tolist() == [
            False,
            True,
            False,
        ]
        with pytest.raises(ValueError, match="conservative_top_p"):
            combine(x, weights, conservative=ConservativeParams(q))
    with pytest.raises(ValueError, match="conservative"):
        combine(x[:2], weights[:2], conservative=ConservativeParams(0.9))
    with pytest.raises(ValueError, match="conservative"):
        combine(x, weights, conservative=ConservativeParams(0.9, "small"))  # type: ignore[arg-type]
