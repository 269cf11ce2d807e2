"""Grammars: `token_bitmask` takes xgrammar's bitmask as it stands, and `bias` adds what a processor would add."""

import pytest
import torch

from eft_ext.ops import combine, fused_mix, fused_step
from eft_ext.ops.backends import native
from python_tests.helpers.rows import models

WHERE = {"seed": 3, "position": 1}


def test_bit_i_of_word_j_is_token_32_j_plus_i():
    logits = [torch.zeros(1, 100)]
    for token in (0, 1, 30, 31, 32, 63, 64, 95, 96, 99):
        word, bit = divmod(token, 32)
        token_bitmask = torch.zeros(1, 4, dtype=torch.int32)
        token_bitmask[0, word] = -(2**31) if bit == 31 else 1 << bit  # bit 31 is the sign of an int32
        for isa in list(native.ISA)[1 : 1 + native._native.cpu_best_isa()]:
            native.force_isa(isa)
            try:
                assert fused_mix(logits, [1.0], token_bitmask=token_bitmask, **WHERE).item() == token
                assert fused_mix(logits, [1.0], token_bitmask=token_bitmask, temperature=0).item() == token
            finally:
                native.force_isa("auto")


def test_words_and_bits_past_the_vocabulary_mean_nothing():
    logits = [x[:, :70] for x in models("lm", 3, 3, 70)]
    token_bitmask = torch.full((3, 3), -1, dtype=torch.int32)
    want = fused_step(*logits, **WHERE, top_p=0.9)
    assert torch.equal(fused_step(*logits, **WHERE, top_p=0.9, token_bitmask=token_bitmask), want)
    token_bitmask[:, 2] = 0b111111  # tokens 64 to 69: all there are
    assert torch.equal(fused_step(*logits, **WHERE, top_p=0.9, token_bitmask=token_bitmask), want)
    # A mask made for a padded vocabulary has further words, and a batch of masks may be a slice.
    wide = torch.zeros(3, 9, dtype=torch.int32)
    wide[:, 2:5] = token_bitmask
    assert torch.equal(fused_step(*logits, **WHERE, top_p=0.9, token_bitmask=wide[:, 2:]), want)


def test_each_row_has_its_own_mask_and_an_empty_one_is_an_invalid_row():
    logits = models("flat", 1, 4, 64)
    token_bitmask = torch.tensor([[1, 0], [0, 1], [0, 0], [0, -(2**31)]], dtype=torch.int32)
    details = fused_mix(logits, [1.0], token_bitmask=token_bitmask, return_details=True, **WHERE)
    assert details.tokens.tolist() == [0, 32, -1, 63]
    assert details.status.tolist() == [0, 0, 1, 0]
    assert details.num_kept.tolist() == [1, 1, 0, 1]
    assert details.logprobs[[0, 1, 3]].abs().max() < 1e-6
    assert details.logprobs[[0, 1, 3]].max() <= 0.0


def test_filters_see_the_allowed_tokens_only():
    """Top-p and top-k after a mask are those of the masked logits, as in a chain of processors."""
    logits = models("lm", 3, 3, 3000)
    words = torch.randint(-(2**31), 2**31, (3, 94), dtype=torch.int32, generator=torch.Generator().manual_seed(5))
    bits = (words[:, torch.arange(3000) // 32] >> (torch.arange(3000) % 32)) & 1 == 1
    masked = torch.where(bits, combine(logits, [1.0, 1.0, -1.0]), -torch.inf)
    for options in (
        {},
        {"top_p": 0.9},
        {"top_k": 40},
        {"min_p": 0.05},
        {"top_p": 0.8, "top_k": 30, "temperature": 0.7},
    ):
        got = fused_mix(logits, [1.0, 1.0, -1.0], token_bitmask=words, return_details=True, **WHERE, **options)
        want = fused_mix([masked], [1.0], return_details=True, **WHERE, **options)
        assert torch.equal(got.tokens, want.tokens)
        assert torch.equal(got.num_kept, want.num_kept)


def test_a_bias_of_minus_infinity_excludes_as_a_mask_does():
    logits = models("lm", 3, 3, 1500)
    bias = torch.zeros(1500)
    bias[torch.arange(1500) % 7 > 0] = -torch.inf
    token_bitmask = torch.zeros(3, 47, dtype=torch.int32)
    for token in range(0, 1500, 7):
        word, bit = divmod(token, 32)
        token_bitmask[:, word] |= -(2**31) if bit == 31 else 1 << bit
    by_bias, by_mask = (
        fused_step(*logits, **WHERE, top_p=0.9, return_details=True, top_logprobs=4, **extra)
        for extra in ({"bias": bias}, {"token_bitmask": token_bitmask})
    )
    assert by_bias.tokens.remainder(7).eq(0).all()
    for name, x, y in zip(by_bias._fields, by_bias, by_mask, strict=True):
        assert torch.equal(x, y), name


def test_xgrammar():
    """Its own bitmask, and what its own kernel makes of it."""
    xgrammar = pytest.importorskip("xgrammar")
    for vocab in (31, 32, 33, 1000, 32000):
        logits = models("lm", 3, 4, vocab)
        mask = xgrammar.allocate_token_bitmask(4, vocab)
        assert mask.dtype == torch.int32
        assert mask.shape == (4, (vocab + 31) // 32)
        xgrammar.reset_token_bitmask(mask)
        assert torch.equal(fused_step(*logits, token_bitmask=mask, **WHERE), fused_step(*logits, **WHERE))
        mask.copy_(torch.randint(-(2**31), 2**31, mask.shape, dtype=torch.int32))
        z = combine(logits, [1.0, 1.0, -1.0])
        xgrammar.apply_token_bitmask_inplace(z, mask)
        assert torch.equal(combine(logits, [1.0, 1.0, -1.0], token_bitmask=mask), z)
        got = fused_step(*logits, token_bitmask=mask, top_p=0.9, **WHERE)
        assert torch.equal(got, fused_mix([z], [1.0], top_p=0.9, **WHERE))
