"""The layout of the logits does not matter: strides, offsets, padded widths, slots, batch sizes, threads, `out=`."""

import itertools

import pytest
import torch

from eft_ext.ops import fused_mix
from eft_ext.ops.backends import native
from python_tests.helpers.rows import models

WEIGHTS = [1.0, 1.0, -1.0]
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ISAS = list(native.ISA)[1 : 1 + native._native.cpu_best_isa()]


@pytest.fixture(params=ISAS)
def isa(request):
    native.force_isa(request.param)
    yield request.param
    native.force_isa("auto")


def placed(x, stride, offset):
    """`x` in rows of `stride` elements from element `offset` on, NaN all around."""
    batch, vocab = x.shape
    whole = torch.full((offset + batch * stride,), torch.nan, dtype=x.dtype)
    view = whole[offset:].view(batch, stride)
    view[:, :vocab] = x
    return view[:, :vocab]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_strides_and_addresses(isa, dtype):
    for vocab in (1, 15, 31, 1000, 1025, 2077):
        logits = models("lm", 3, 3, vocab, dtype)
        options = {"seed": 3, "position": 1, "top_p": 0.9, "return_details": True, "top_logprobs": 4}
        want = fused_mix(logits, WEIGHTS, **options)
        for stride, offset in itertools.product((vocab, vocab + 1, vocab + 13, 2 * vocab + 31), (0, 1, 7)):
            # Each model at a different place, so that no two share an alignment.
            odd = [placed(x, stride + 2 * k, offset + k) for k, x in enumerate(logits)]
            got = fused_mix(odd, WEIGHTS, **options)
            for name, x, y in zip(got._fields, got, want, strict=True):
                assert torch.equal(x, y), f"V={vocab} stride={stride} offset={offset}: {name}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_padded_widths_with_odd_strides(isa, dtype):
    vocab = 1111
    logits = models("lm", 3, 4, vocab, dtype)
    options = {"seed": torch.arange(4), "position": 2, "top_k": 100, "top_p": 0.95}
    want = fused_mix(logits, WEIGHTS, **options)
    padded = [placed(x, vocab + 64 * k + 1, k) for k, x in enumerate(logits)]
    wide = [x.as_strided((4, vocab + 64 * k), x.stride()) for k, x in enumerate(padded)]  # NaN beyond V
    assert [x.shape[1] for x in wide] == [vocab, vocab + 64, vocab + 128]
    assert torch.equal(fused_mix(wide, WEIGHTS, **options), want)
    assert (fused_mix(wide[1:], WEIGHTS[:2], vocab_size=vocab, **options) >= 0).all()


def test_slices_of_a_transposed_batch(isa):
    """[T, B, V] as some loops keep it, seen as [B, T, V], last position."""
    logits = models("lm", 3, 5, 900, torch.bfloat16)
    options = {"seed": 4, "position": 0, "top_p": 0.9}
    want = fused_mix(logits, WEIGHTS, **options)
    for axis in (0, 1):
        stacked = [torch.stack([torch.full_like(x, torch.nan), x, torch.full_like(x, torch.nan)], axis) for x in logits]
        slices = [s.select(axis, 1) for s in stacked]
        assert torch.equal(fused_mix(slices, WEIGHTS, **options), want)
    every_other = [x.repeat_interleave(2, dim=0)[::2] for x in logits]
    assert every_other[0].stride(0) == 2 * 900
    assert torch.equal(fused_mix(every_other, WEIGHTS, **options), want)
    expanded = [x[:1].expand(5, -1) for x in logits]  # a row stride of 0
    seeds = {"seed": torch.arange(5), "position": 0}
    copies = [x[:1].repeat(5, 1) for x in logits]
    assert torch.equal(fused_mix(expanded, WEIGHTS, **seeds), fused_mix(copies, WEIGHTS, **seeds))


@pytest.mark.parametrize("batch", [1, 2, 7, 33, 128, 300])
def test_batch_sizes_slots_and_out(isa, batch):
    logits = models("lm", 3, 300, 1300, torch.bfloat16)
    where = {"seed": torch.arange(300) * 977, "position": torch.arange(300) % 5}
    options = {"temperature": 0.8, "top_p": 0.95, "return_details": True}
    whole = fused_mix(logits, WEIGHTS, **where, **options)
    assert torch.equal(whole.status, torch.zeros(300, dtype=torch.int32))
    for start in (0, 300 - batch):
        part = slice(start, start + batch)
        of_part = {name: value[part] for name, value in where.items()}
        details = fused_mix([x[part] for x in logits], WEIGHTS, **of_part, **options)
        for name, x, y in zip(details._fields, details, whole, strict=True):
            assert torch.equal(x, y[part]), name
        out = torch.full((batch + 2,), -7)
        plain = {k: v for k, v in options.items() if k != "return_details"}
        fused_mix([x[part] for x in logits], WEIGHTS, out=out[1:-1], **of_part, **plain)
        assert torch.equal(out[1:-1], whole.tokens[part])
        assert out[[0, -1]].tolist() == [-7, -7]


def test_thread_counts_up_to_many_rows(isa):
    logits = models("lm", 3, 300, 1300, torch.float16)
    before, draws = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            draws.append(fused_mix(logits, WEIGHTS, seed=torch.arange(300), position=9, top_k=30))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(d, draws[0]) for d in draws)


def test_the_lowest_value_of_fp16_excludes_beside_models_of_other_dtypes(isa):
    """Staged as fp32 it is a number like any other, in a tile that looks ordinary."""
    for other in (torch.float32, torch.bfloat16):
        first, second = torch.zeros(2, 40).half(), torch.zeros(2, 40, dtype=other)
        first[:, ::2] = torch.finfo(torch.float16).min
        for pair in ((first, second), (second, first)):
            for weights in ([1.0, 1.0], [0.0, 1.0], [-1.0, -1.0]):
                details = fused_mix(pair, weights, seed=1, position=0, return_details=True)
                assert details.num_kept.tolist() == [20, 20]
                assert (details.tokens % 2 == 1).all()
                assert fused_mix(pair, weights, temperature=0).tolist() == [1, 1]
