"""Cutoffs among tens of thousands of candidates, where the CPU step samples first (csrc/cpu/cutoff_estimate.h)."""

import pytest
import torch

from eft_ext.ops import force_isa, fused_mix, fused_step
from eft_ext.ops.backends import native
from python_tests.helpers.rows import models
from python_tests.helpers.slow_params import slowly

VOCAB = 70_001  # samples are taken from 8,192 on, lists end at 4,096
ISAS = list(native.ISA)[1 : 1 + native._native.cpu_best_isa()]
OPTIONS = [
    {"top_p": 0.9},
    {"top_p": 0.5, "temperature": 3.0},
    {"top_p": 0.999},
    {"top_p": 1e-4},
    {"top_p": 0.97, "temperature": 50.0},
    {"top_k": 2000},
    {"top_k": 50_000},
    {"top_k": 60_000, "top_p": 0.9},
    {"top_k": 30_000, "top_p": 0.9999},
    {"top_k": 70_000, "top_p": 0.5, "min_p": 0.01},
    {"min_p": 1e-5},
    {"min_p": 0.9},
]


def on(isa, call):
    force_isa(isa)
    try:
        return call()
    finally:
        force_isa("auto")


SLOW = slowly("equal", "two_level", "wide", "masked", "huge")


@pytest.mark.parametrize("rows", ["flat", "bf16_ties", "lm", *SLOW])
def test_every_limit_is_the_references(rows):
    logits = models(rows, 3, 1, VOCAB, torch.bfloat16)
    for options in OPTIONS:
        call = {"seed": 4, "position": 1, "return_details": True, **options}
        want = fused_mix(logits, [1, 1, -1], backend="reference", **call)
        for isa in ISAS:
            got = on(isa, lambda call=call: fused_mix(logits, [1, 1, -1], backend="cpu", **call))
            assert torch.equal(got.tokens, want.tokens), (isa, options)
            assert torch.equal(got.num_kept, want.num_kept), (isa, options)


@pytest.mark.slow
@pytest.mark.parametrize("outside", ["keep", "drop"])
@pytest.mark.parametrize("of", ["large", "tuned", "base"])
def test_a_wide_conservative_nucleus(of, outside):
    for rows, dtype in (("flat", torch.bfloat16), ("lm", torch.bfloat16), ("equal", torch.float16), ("wide", None)):
        logits = models(rows, 3, 1, VOCAB, dtype or torch.float32)
        conservative = {"conservative_top_p": 0.9, "conservative_set": of, "conservative_outside": outside}
        call = {"scale": 1.3, "top_p": 0.9, "seed": 4, "position": 1, "return_details": True, **conservative}
        want = fused_step(*logits, backend="reference", **call)
        for isa in ISAS:
            got = on(isa, lambda call=call, logits=logits: fused_step(*logits, backend="cpu", **call))
            assert torch.equal(got.tokens, want.tokens), (isa, rows)
            assert torch.equal(got.num_kept, want.num_kept), (isa, rows)


def test_tokens_that_tie_far_apart_are_parted_at_the_limit():
    """Few values, each thousands of times: the limit is the nth of its ties in the middle of some tile."""
    generator = torch.Generator().manual_seed(3)
    values = -4 - 0.25 * torch.randint(6, (1, VOCAB), generator=generator).float()
    for top_p in (0.31, 0.5, 0.77, 0.9, 0.983):
        call = {"seed": 7, "position": 2, "return_details": True, "top_p": top_p}
        want = fused_mix([values], [1], backend="reference", **call)
        for isa in ISAS:
            got = on(isa, lambda call=call: fused_mix([values], [1], backend="cpu", **call))
            assert torch.equal(got.tokens, want.tokens), (isa, top_p)
            assert torch.equal(got.num_kept, want.num_kept), (isa, top_p)


def test_tokens_too_light_for_their_tiles_references_to_settle_it():
    """Each candidate weighs a few units of the row's mass, less than what is cut off at the tiles' references."""
    generator = torch.Generator().manual_seed(5)
    t = -25 - torch.rand(1, VOCAB, generator=generator)
    t[0, 1024 * 3 + 5] = 0  # one tile has the row's reference, all others their own
    for top_p in (0.9987, 0.99902, 0.9996):
        call = {"seed": 9, "position": 2, "return_details": True, "top_p": top_p, "temperature": 1.4426950408889634}
        want = fused_mix([t], [1], backend="reference", **call)
        for isa in ISAS:
            got = on(isa, lambda call=call: fused_mix([t], [1], backend="cpu", **call))
            assert torch.equal(got.tokens, want.tokens), (isa, top_p)
            assert torch.equal(got.num_kept, want.num_kept), (isa, top_p)


@pytest.mark.parametrize("rows", ["lm", *slowly("flat", "one_hot", "excluded")])
def test_a_conservative_row_shared_among_threads(rows):
    """However many threads torch has: one row of more than 65,536 logits draws the same token."""
    logits = models(rows, 3, 1, VOCAB, torch.bfloat16)
    call = {"seed": 4, "position": 1, "backend": "cpu", "return_details": True, "top_p": 0.9, "conservative_top_p": 0.8}
    threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 4):
            torch.set_num_threads(n)
            found.append(fused_step(*logits, **call))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert torch.equal(other.tokens, found[0].tokens)
        assert torch.equal(other.num_kept, found[0].num_kept)
        assert torch.equal(other.logprobs.nan_to_num(7), found[0].logprobs.nan_to_num(7))
