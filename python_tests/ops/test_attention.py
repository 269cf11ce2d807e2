"""Attention of few queries on the CPU: against softmax in float64, the same bits in any company, and what it does not
read."""

import math

import pytest
import torch

from eft_ext.ops import attention as module
from eft_ext.ops.backends import native

attention = module.attention
pytestmark = pytest.mark.skipif(native._native is None, reason="needs the native module")
ISAS = [name for name, level in native.ISA.items() if native._native and 0 < level <= native._native.cpu_best_isa()]
# One rounding of the output, and those of sums in fp32.
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}


@pytest.fixture(params=ISAS)
def isa(request):
    native.force_isa(request.param)
    yield request.param
    native.force_isa("auto")


def tensors(batch, heads, kv_heads, slots, dim, queries, dtype=torch.float32, seed=0):
    """q, and k and v as views of a cache [batch, slots, heads, dim]."""
    generator = torch.Generator().manual_seed(seed)

    def new(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    q = new(batch, heads, queries, dim)
    k, v = (new(batch, slots, kv_heads, dim).transpose(1, 2) for _ in range(2))
    return q, k, v


def formula(q, k, v, mask, scale=None):
    """Softmax in float64; a row without a slot is zero, and excluded slots have no influence."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.double(), *(x.double().repeat_interleave(group, 1) for x in (k, v))
    scores = q @ k.mT * (q.shape[3] ** -0.5 if scale is None else scale)
    if mask is not None:
        bias = (
            torch.zeros_like(mask, dtype=torch.double).masked_fill(~mask, -math.inf)
            if mask.dtype is torch.bool
            else mask
        )
        bias = bias.double().expand_as(scores)
        scores = torch.where(bias == -math.inf, bias, scores + bias)
    weights = (scores - scores.amax(-1, keepdim=True).clamp(min=-1e300)).exp()
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300) @ v


def ragged(batch, queries, slots, window=None):
    """Additive mask [batch, 1, queries, slots]: sequences of different lengths, causal, with a window if given."""
    end = torch.tensor([max(queries, slots - 37 * b) for b in range(batch)]).view(-1, 1, 1, 1)
    last = end - queries + torch.arange(queries).view(1, 1, -1, 1)
    slot = torch.arange(slots)
    seen = (slot <= last) & (slot > last - (window or slots + 1))
    return torch.zeros(seen.shape).masked_fill(~seen, -math.inf)


def check(q, k, v, mask, **options):
    scale = options.get("scale")
    assert module.suits(q, k, v, mask)
    out = attention(q, k, v, mask, scale, True)
    assert out.dtype == q.dtype
    assert out.shape == q.shape
    wanted = formula(q, k, v, mask, scale)
    torch.testing.assert_close(out.double(), wanted, rtol=TOLERANCE[q.dtype], atol=TOLERANCE[q.dtype])
    return out


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 9, 32])
def test_formula(isa, dtype, queries):
    check(*tensors(2, 4, 4, 300, 64, queries, dtype), ragged(2, queries, 300))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("dim", [1, 16, 17, 24, 40, 72, 80, 96, 128, 200, 256])
def test_widths_of_a_head(isa, dtype, dim):
    check(*tensors(1, 2, 1, 141, dim, 3, dtype), None)


@pytest.mark.parametrize("slots", [1, 2, 5, 127, 128, 129, 1000])
def test_numbers_of_slots(isa, slots):
    for queries in (1, 4):
        check(*tensors(2, 2, 2, slots, 32, queries), None, scale=0.3)


@pytest.mark.parametrize("groups", [(14, 2), (6, 1), (8, 4)])
@pytest.mark.parametrize("queries", [1, 5])
def test_heads_share_keys(isa, groups, queries):
    heads, kv_heads = groups
    check(*tensors(2, heads, kv_heads, 200, 64, queries), ragged(2, queries, 200, window=50))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.bool], ids=str)
@pytest.mark.parametrize("shape", [(2, 1, 3, 150), (1, 1, 1, 150), (2, 4, 3, 150), (1, 4, 1, 150)], ids=str)
def test_masks(isa, kind, shape):
    generator = torch.Generator().manual_seed(3)
    excluded = torch.rand(shape, generator=generator) < 0.4
    mask = torch.randn(shape, generator=generator).masked_fill(excluded, -math.inf)
    mask = ~excluded if kind is torch.bool else mask.to(kind)
    check(*tensors(2, 4, 2, 150, 32, 3), mask)
    check(*tensors(2, 4, 2, 150, 32, 3), mask.expand(2, 4, 3, 150))


def test_a_row_without_a_slot_is_zero(isa):
    """torch's own gives the same."""
    q, k, v = tensors(2, 2, 2, 200, 32, 2)
    mask = ragged(2, 2, 200)
    mask[1, :, 0] = -math.inf
    out = check(q, k, v, mask)
    assert not out[1, :, 0].any()
    assert out[1, :, 1].all()
    with torch.no_grad():
        torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(q, k, v, mask))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_the_same_bits_in_any_company(isa, dtype):
    """A row alone, among others, and with a longer bucket behind it."""
    batch, queries, slots = 3, 7, 333
    q, k, v = tensors(batch, 6, 2, slots, 40, queries, dtype)
    mask = ragged(batch, queries, slots, window=170)
    whole = attention(q, k, v, mask, None, True)
    for b in range(batch):
        for i in range(queries):
            seen = mask[b, 0, i].isfinite().nonzero()
            end = int(seen[-1]) + 1
            parts = q[b : b + 1, :, i : i + 1], k[b : b + 1, :, :end], v[b : b + 1, :, :end]
            alone = attention(*parts, mask[b : b + 1, :, i : i + 1, :end], None, True)
            assert torch.equal(whole[b, :, i], alone[0, :, 0])


def test_the_same_bits_on_any_number_of_threads(isa):
    q, k, v = tensors(3, 6, 2, 700, 64, 4)
    before, outputs = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            outputs.append(attention(q, k, v, None, None, True))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("rubbish", [math.nan, math.inf])
def test_excluded_slots_are_not_used(isa, rubbish):
    """A cache holds rubbish behind a row's end. torch's own would multiply it by 0."""
    q, k, v = tensors(3, 4, 2, 400, 40, 3)
    mask = ragged(3, 3, 400, window=100)
    wanted = attention(q, k, v, mask, None, True)
    unused = (mask == -math.inf).all(2)[:, :, :, None]
    k, v = (x.masked_fill(unused, rubbish) for x in (k, v))
    assert torch.equal(attention(q, k, v, mask, None, True), wanted)


def test_nan_in_a_slot_that_counts_is_seen(isa):
    q, k, v = tensors(1, 1, 1, 200, 32, 1)
    for x in (k, v):
        x[0, 0, 150, 3] = math.nan
        assert attention(q, k, v, None, None, True).isnan().any()
        x[0, 0, 150, 3] = 0


def test_large_scores(isa):
    """Weights that overflow without the maximum, and one slot that takes all."""
    q, k, v = tensors(1, 2, 2, 300, 32, 2)
    check(q * 100, k, v, None)
    k[:, :, 270] = q[:, :, 0] * 50
    check(q, k, v, None)


@pytest.mark.parametrize(
    "change",
    [
        lambda q, k, v, m: (q.double(), k.double(), v.double(), m.double()),
        lambda q, k, v, m: (q.expand(2, 4, 33, 16), k, v, None),
        lambda q, k, v, m: (q, k.mT.contiguous().mT, v, m),
        lambda q, k, v, m: (q, k, v, m[0, 0]),
        lambda q, k, v, m: (q, k, v.requires_grad_(), m),
        lambda q, k, v, m: (torch.zeros(2, 4, 1, 260), torch.zeros(2, 4, 9, 260), torch.zeros(2, 4, 9, 260), None),
    ],
)
def test_torch_takes_what_does_not_suit(change):
    q, k, v = tensors(2, 4, 4, 20, 16, 1)
    arguments = change(q, k, v, torch.zeros(2, 1, 1, 20))
    assert not module.suits(*arguments)
    out = attention(*arguments, None, False)
    torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(*arguments))
    assert out.requires_grad == any(x is not None and x.requires_grad for x in arguments)


def test_heads_that_differ_need_enable_gqa():
    with pytest.raises(RuntimeError):
        attention(*tensors(1, 4, 2, 20, 16, 1), None, None, False)


def test_it_is_traced():
    q, k, v = tensors(2, 4, 2, 50, 16, 1)
    mask = ragged(2, 1, 50)
    traced = torch.jit.trace(lambda *x: attention(*x, 0.25, True), (q, k, v, mask))
    assert "eft_ext::attention" in str(traced.graph)
    others = *tensors(2, 4, 2, 50, 16, 1, seed=1), mask
    torch.testing.assert_close(traced(*others).double(), formula(*others, 0.25), rtol=4e-6, atol=4e-6)


def test_the_fake_is_like_the_real():
    q, k, v = tensors(2, 4, 2, 50, 16, 3)
    given = q, k, v, ragged(2, 3, 50), None, True
    torch.library.opcheck(torch.ops.eft_ext.attention.default, given)
    assert torch.equal(torch.ops.eft_ext.attention(*given), attention(*given))


def test_autocast_is_left_to_torch():
    given = *tensors(2, 4, 4, 40, 64, 3), ragged(2, 3, 40)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(*given, None, True)
        expected = torch.nn.functional.scaled_dot_product_attention(*given, enable_gqa=True)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected)
