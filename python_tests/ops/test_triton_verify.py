"""fused_verify in Triton's interpreter: the CPU's tokens, accepted drafts and statuses, bit for bit.

EFT_FUZZ_SECONDS=600 pytest python_tests/ops/test_triton_verify.py -s searches that long with calls made up at random.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from typing import Any

import pytest
import torch

from eft_ext.ops import VerifyResult, fused_verify
from python_tests.helpers import triton_interpreter as child
from python_tests.helpers.drafts import EFT, blocks, propose
from python_tests.helpers.rows import ROWS, STEP_OPTIONS
from python_tests.helpers.slow_params import slowly, slowly_but

SECONDS = float(os.environ.get("EFT_FUZZ_SECONDS", "0"))
KINDS = slowly_but(("lm", "nan"), ROWS)


def same(interpreter, call: dict[str, Any], sizes=None) -> VerifyResult:
    """The CPU's result, to which Triton's is compared."""
    want = fused_verify(**call, backend="cpu")
    got = interpreter.call(child.verified, call, sizes)
    for name, x, y in zip(want._fields, got, want, strict=True):
        assert torch.equal(x, y), f"{name} {x.tolist()} is not {y.tolist()} of {describe(call)}"
    return want


def describe(call: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(x.shape) if isinstance(x, torch.Tensor) and x.dim() > 1 else x for name, x in call.items()
            if name not in ("logits", "bias")}  # fmt: skip


def made(
    rows, batch, k, vocab, dtype=torch.float32, weights=EFT, own=None, seed=0, count=3, **options
) -> dict[str, Any]:
    """A call whose drafts were drawn as numerics.md §8 says. own: the draft model's options, p's where None."""
    logits, seeds = blocks(rows, count, batch, k, vocab, dtype, seed), torch.arange(batch) + 11
    draft_logits = logits[min(1, count - 1)][:, :k]
    drafts = propose(draft_logits, seeds, 7, **(options if own is None else own)).clamp(min=0)
    defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    given = {} if own is None else {f"draft_{name}": value for name, value in {**defaults, **own}.items()}
    call = {"drafts": drafts, "draft_logits": draft_logits, "logits": logits, "weights": weights}
    return {**call, "seed": seeds, "position": 7, **options, **given}


def test_acceptance_is_exact_where_sides_meet(interpreter):
    """u q < p with both sides equal, and a unit apart, carries and all."""
    pick, rows = random.Random(3), []
    for _ in range(300):
        wq, sp = pick.getrandbits(41) | 1, pick.getrandbits(60) | 1
        bits = pick.choice((pick.getrandbits(64), 2**64 - 1, 0, 1 << pick.randint(0, 63)))
        meets = bits * wq * sp >> 64
        # wp sq is to be `meets`, or next to it: as it stands in one of the two, as a product of both otherwise.
        sq = 1 if meets < 2**62 else pick.getrandbits(60) | 1
        wp = meets // sq
        rows += [(bits, min(max(w, 0), 2**62), sp, wq, sq) for w in (wp - 1, wp, wp + 1)]
    rows += [(2**64 - 1, w, 2**60 - 1, 2**41 - 1, 2**60 - 1) for w in (2**41 - 2, 2**41 - 1)]
    want = [bits * wq * sp >> 64 < wp * sq for bits, wp, sp, wq, sq in rows]
    signed = [[x - 2**64 if x >= 2**63 else x for x in row] for row in rows]
    assert interpreter.call(child.accepted, torch.tensor(signed).T.contiguous()).tolist() == [int(x) for x in want]
    assert sum(want) > 100


@pytest.mark.parametrize("rows", KINDS)
def test_every_kind_of_row(interpreter, rows):
    """With two sets of options each, the draft model's other ones, so that all sets occur."""
    sets = list(STEP_OPTIONS.values())
    at = list(ROWS).index(rows)
    same(interpreter, made(rows, 2, 2, 700, torch.bfloat16, own=sets[(at + 5) % len(sets)], **sets[at]))
    same(interpreter, made(rows, 2, 1, 1025, weights=[0.5, 0.4, 0.2], own={"top_p": 0.95}, **sets[-at]))


@pytest.mark.parametrize(
    ("k", "seed"),
    [pytest.param(*case, marks=pytest.mark.slow if case[0] > 2 else ()) for case in ((1, 3), (2, 6), (3, 3), (4, 145))],
)
def test_drafts_that_are_nearly_right(interpreter, k, seed):
    """Every number of them stands in some row, and residuals are drawn in the second tile too."""
    call = made("lm", k + 1, k, 1500, torch.bfloat16, weights=[0.6, 0.6, -0.4], seed=seed, temperature=1.2)
    want = same(interpreter, call)
    assert set(want.num_accepted.tolist()) == set(range(k + 1))
    redrawn = want.tokens.gather(1, want.num_accepted[:, None])[want.num_accepted[:, None] < k]
    assert (redrawn >= 1024).any()


@pytest.mark.slow
def test_filters_of_both(interpreter):
    for n, options in enumerate(({"temperature": 0.7, "top_p": 0.95}, {"top_k": 50, "top_p": 0.9}, {"min_p": 0.01})):
        want = same(interpreter, made("lm", 2, 2, 900, torch.half, weights=[0.5, 0.6, -0.2], seed=n, **options))
        assert len(want.num_accepted.unique()) > 1


@pytest.mark.slow
def test_rows_of_any_length(interpreter):
    call = made("lm", 6, 3, 400, weights=[0.2, 0.9, -0.1])
    for lengths in (torch.tensor([0, 1, 2, 3, 4, -1]), 0, 2):
        want = same(interpreter, {**call, "lengths": lengths})
        assert (want.num_accepted <= torch.as_tensor(lengths).clamp(min=0)).all()


@pytest.mark.slow
def test_a_draft_model_that_is_the_mixture_is_always_right(interpreter):
    for options in ({}, {"top_p": 0.9}, {"temperature": 0.0}):
        want = same(interpreter, made("lm", 2, 3, 500, weights=[1.0], count=1, **options))
        assert (want.num_accepted == 3).all()


@pytest.mark.slow
def test_supports_that_do_not_meet(interpreter):
    even, odd = torch.zeros(1, 1, 1500), torch.zeros(1, 1, 1500)
    even[..., 1::2], odd[..., ::2] = -torch.inf, -torch.inf
    even, odd, seeds = even.expand(6, 3, -1), odd.expand(6, 3, -1), torch.arange(6)
    call = {"drafts": propose(even[:, :2], seeds), "draft_logits": even[:, :2], "logits": [odd], "weights": [1.0]}
    want = same(interpreter, {**call, "seed": seeds, "position": 0})
    assert (want.num_accepted == 0).all()
    assert (want.tokens[:, 0] % 2 == 1).all()
    assert (want.tokens[:, 0] > 1024).any()


@pytest.mark.slow
def test_a_residual_of_less_than_a_unit_falls_back_to_the_mixture(interpreter):
    """q has two units of 2^-40 at a token that p excludes: nothing else differs, so every rho is 0."""
    p, q = torch.zeros(8, 2, 1300), torch.zeros(8, 1, 1300)
    p[..., 5], q[..., 5] = -torch.inf, -27.0
    call = {"drafts": torch.full((8, 1), 5), "draft_logits": q, "logits": [p], "weights": [1.0]}
    want = same(interpreter, {**call, "seed": torch.arange(8), "position": 3})
    assert (want.num_accepted == 0).all()
    assert (want.tokens[:, 0] >= 0).all()
    assert len(want.tokens[:, 0].unique()) > 4


@pytest.mark.slow
def test_drafts_that_are_certain_need_no_logits(interpreter):
    call = made("lm", 3, 3, 1100, weights=[0.3, 0.8, 0.0], own={"temperature": 0.0})
    want = same(interpreter, call)
    assert len(want.num_accepted.unique()) > 1
    assert all(torch.equal(x, y) for x, y in zip(same(interpreter, {**call, "draft_logits": None}), want, strict=True))
    same(interpreter, {name: x[:2] if isinstance(x, torch.Tensor) else x for name, x in call.items()}
         | {"logits": [x[:2] for x in call["logits"]], "top_p": 0.7})  # fmt: skip


@pytest.mark.slow
def test_every_option_may_differ_from_row_to_row(interpreter):
    batch, k = 6, 2
    heat = torch.tensor([0.0, 0.7, 1.0, 1.3, 1.0, 0.9])
    options = {"temperature": heat, "top_p": torch.tensor([0.9, 1.0, 0.8, 0.5, 0.0, 1.0])}
    options |= {"top_k": torch.tensor([0, 5, 0, 50, 1, 0]), "min_p": torch.tensor([0.0, 0.0, 0.1, 0.0, 0.0, 0.0])}
    own = {"temperature": torch.tensor([1.0, 0.0, 1.0, 0.5, 0.0, 0.9]), "top_k": torch.tensor([0, 0, 3, 7, 1, 0])}
    weights = torch.tensor([[1.0, 0.5, 0.5, -1.0]]).repeat(batch, 1) * torch.linspace(0.5, 1.0, batch)[:, None]
    call = made("lm", batch, k, 600, count=4, weights=weights, own=own, **options)
    call |= {"lengths": torch.tensor([2, 1, 0, 2, 2, 1]), "position": torch.tensor([0, 5, 2**40, 1, 9, 2**62])}
    assert (same(interpreter, call).status == 0).all()


@pytest.mark.slow
def test_what_is_bad_spoils_its_row_only(interpreter):
    batch, k = 12, 2
    call = made("flat", batch, k, 300, weights=[0.0, 1.0, 0.0])  # p = q: a row that is not spoilt accepts all
    call["draft_logits"] = call["draft_logits"].clone()
    call["draft_logits"][0, 1, 3] = torch.nan
    call["logits"][1][1, 0, 5] = torch.inf
    call["logits"][2][2, 2, :] = -torch.inf
    call["drafts"][3, 0], call["drafts"][4, 1] = 300, -1
    call["lengths"] = torch.tensor([2, 2, 2, 2, 2, 3, -1, 2, 2, 2, 2, 2])
    call["temperature"], call["draft_temperature"] = torch.ones(batch), torch.ones(batch)
    call["temperature"][7], call["draft_temperature"][8] = torch.nan, -1.0
    call["position"] = torch.zeros(batch, dtype=torch.int64)
    call["position"][9] = -1
    call["draft_top_p"] = torch.ones(batch)
    call["draft_top_p"][10] = 1.5
    want = same(interpreter, call)
    assert want.status.tolist() == [1] * 11 + [0]
    assert want.num_accepted.tolist() == [1, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 2]
    # Certain drafts: the options of q are looked at, its logits are not.
    same(interpreter, {**call, "draft_temperature": 0.0})


@pytest.mark.slow
def test_logits_behind_a_rejection_are_not_looked_at(interpreter):
    for temperature, weights in ((0.0, EFT), (1.2, [0.6, 0.6, -0.4])):
        call = made("lm", 8, 3, 400, weights=weights, temperature=temperature)
        for x in call["logits"]:
            x[:, 2:] = torch.nan
        call["drafts"][:, 2] = -7
        want = same(interpreter, call)
        assert 0 < want.status.sum() < 8


def made_up(seed: int) -> dict[str, Any]:
    """A call at random: rows, sizes, filters of both, lengths, masks."""
    pick = random.Random(seed)
    sets = list(STEP_OPTIONS.values())
    batch, k, vocab = pick.randint(1, 4), pick.randint(1, 4), pick.choice((1, 2, 31, 300, 1024, 1025))
    own = pick.choice((None, {}, {"temperature": 0.0}, pick.choice(sets)))
    weights = [round(pick.uniform(-1, 1.5), 1) for _ in range(pick.randint(1, 4))]
    dtype = pick.choice((torch.bfloat16, torch.half, torch.float32))
    call = made(pick.choice(list(ROWS)), batch, k, vocab, dtype, weights, own, seed, len(weights), **pick.choice(sets))
    if pick.random() < 0.3:
        call["lengths"] = torch.tensor([pick.randint(0, k) for _ in range(batch)])
    if pick.random() < 0.3:
        noise = torch.Generator().manual_seed(seed)
        call["token_bitmask"] = torch.randint(
            -(2**31), 2**31, (batch, k + 1, 33), generator=noise, dtype=torch.int64
        ).int()
    if pick.random() < 0.2 and len(weights) == 3:
        call |= {"conservative_top_p": pick.choice((0.5, 0.9)), "conservative_set": pick.choice(("large", "base"))}
    return call


@pytest.mark.skipif(SECONDS > 0, reason="the long search runs instead")
@pytest.mark.parametrize("seed", [0, *slowly(*range(1, 12))])
def test_made_up_calls(interpreter, seed):
    same(interpreter, made_up(seed))


@pytest.mark.skipif(not SECONDS, reason="EFT_FUZZ_SECONDS is not set")
def test_search(interpreter):
    end, count = time.monotonic() + SECONDS, 0
    for seed in itertools.count(random.randrange(2**40)):
        if time.monotonic() > end:
            break
        same(interpreter, made_up(seed), (1, 4, 2, 4, 4) if seed % 2 else None)
        count += 1
    print(f"fuzz: {count} calls")
