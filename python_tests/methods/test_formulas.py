"""Each method against its formula, written here in float64 from the models' own probabilities."""

import math

import pytest
import torch

import eft_ext
from eft_ext import methods as m

V = 700
SEEN = 1e-12  # log-probabilities of tokens below this are not compared
ROWS = torch.tensor([0.0, 0.4, 1.0, 2.5])


def lm_rows(k, seed=0, batch=4, size=V):
    """K models' logits [batch, size] that agree in part, a head over a broad floor."""
    make = torch.Generator().manual_seed(seed)
    common = 2.5 * torch.randn(batch, size, generator=make)
    return [common + 0.8 * torch.randn(batch, size, generator=make) for _ in range(k)]


def mixed(logits, *weights):
    """log Π p_k^w_k, normalised, float64 [B, V]; weights are numbers or [B]."""
    total = 0.0
    for x, w in zip(logits, weights, strict=True):
        total = total + torch.as_tensor(w, dtype=torch.float64).reshape(-1, 1) * x.double().log_softmax(-1)
    return total.log_softmax(-1)


def plausible(x, share):
    p = x.double().softmax(-1)
    return p >= torch.as_tensor(share).double().reshape(-1, 1) * p.amax(-1, keepdim=True)


def contrast(logits, beta, share):
    total = mixed(logits, 1 + beta, -beta)
    return total.masked_fill(~plausible(logits[0], share), -math.inf).log_softmax(-1)


def nucleus(x, top_p):
    p, order = x.double().softmax(-1).sort(dim=-1, descending=True, stable=True)
    inside = torch.zeros_like(p, dtype=torch.bool)
    return inside.scatter(1, order, (p.cumsum(-1) - p) < top_p)


def conservative(logits, scale, top_p, of=1, drop=False):
    large, tuned, base = (x.double().log_softmax(-1) for x in logits)
    inside = nucleus(logits[of], top_p)
    outside = torch.full_like(tuned, -math.inf) if drop else tuned
    return torch.where(inside, tuned + scale * (large - base), outside).log_softmax(-1)


CASES = {
    "UpScale(0.7)": (m.UpScale(0.7), 3, lambda x: mixed(x, 1, 0.7, -0.7)),
    "UpScale rows": (m.UpScale(ROWS), 3, lambda x: mixed(x, 1, ROWS, -ROWS)),
    "DownScale(1.3)": (m.DownScale(1.3), 3, lambda x: mixed(x, 1, 1.3, -1.3)),
    "Amplify(1.5)": (m.Amplify(1.5), 3, lambda x: mixed(x, 1.5, 1, -1.5)),
    "Amplify rows": (m.Amplify(ROWS), 3, lambda x: mixed(x, ROWS, 1, -ROWS)),
    "Interpolate": (m.Interpolate({"a": 0.3, "b": 0.7}), 4, lambda x: mixed(x, 1, 0.3, 0.7, -1)),
    "Interpolate alone": (m.Interpolate({"a": 0.3}), 3, lambda x: mixed(x, 1, 0.3, -0.3)),
    "Interpolate rows": (m.Interpolate.between("a", "b", ROWS), 4, lambda x: mixed(x, 1, ROWS, 1 - ROWS, -1)),
    "Contrast": (m.Contrast(0.5, 0.1), 2, lambda x: contrast(x, 0.5, 0.1)),
    "Contrast rows": (m.Contrast(ROWS, ROWS.clamp(max=1)), 2, lambda x: contrast(x, ROWS, ROWS.clamp(max=1))),
    "Contrast free": (m.Contrast(0.5, 0), 2, lambda x: mixed(x, 1.5, -0.5)),
    "Realign(2)": (m.Realign(2.0), 2, lambda x: mixed(x, -1, 2)),
    "Realign rows": (m.Realign(ROWS), 2, lambda x: mixed(x, 1 - ROWS, ROWS)),
    "Guidance(1.5)": (m.Guidance(1.5), 2, lambda x: mixed(x, 1.5, -0.5)),
    "Plain": (m.Plain(), 1, lambda x: mixed(x, 1)),
    "Weighted": (m.Weighted({"a": 0.2, "b": 1.0, "c": -0.7, "d": 0.5}), 4, lambda x: mixed(x, 0.2, 1, -0.7, 0.5)),
    "Conservative": (m.Conservative(0.9), 3, lambda x: conservative(x, 1, 0.9)),
    "Conservative, large": (
        m.Conservative(0.8, set="large", outside="drop", method=m.Amplify(1.4)),
        3,
        lambda x: conservative(x, 1.4, 0.8, of=0, drop=True),
    ),
    "Conservative DownScale": (
        m.Conservative(0.95, set="base", method=m.DownScale()),
        3,
        lambda x: conservative(x, 1, 0.95, of=2),
    ),
}


def assert_close(z, expected):
    """In fp32: 2^-22 of the largest logit (numerics.md §13), a few roundings and the normaliser."""
    got = z.double().log_softmax(-1)
    assert torch.equal(got == -math.inf, expected == -math.inf)
    seen = expected.exp() > SEEN
    bound = 2**-20 * max(1.0, float(z[z.isfinite()].abs().max()))
    assert (got - expected)[seen].abs().max() < bound


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_the_mixture_is_the_formula(name, seed):
    method, count, formula = CASES[name]
    logits = lm_rows(count, seed)
    assert len(method.models) == count
    assert_close(eft_ext.combine(logits, method), formula(logits))


@pytest.mark.parametrize("name", CASES)
def test_the_oracle_gives_the_formula(name):
    """`reference.distribution`, float64 once mixed, with filters off."""
    method, count, formula = CASES[name]
    logits = lm_rows(count, 7)
    p = eft_ext.reference.distribution(
        method.prepare(logits), method.weights(), conservative=method.conservative(), temperature=1.0
    )
    expected = formula(logits).exp()
    assert (p - expected).abs().max() < 1e-5
    assert torch.equal(p == 0, expected == 0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"temperature": 1.2, "top_p": 0.9, "seed": 5, "position": 2}]
)
def test_tokens_are_those_of_the_oracle(name, options):
    method, count, _ = CASES[name]
    logits = lm_rows(count, 11)
    tokens = eft_ext.fused_mix(logits, method, **options)
    assert torch.equal(tokens, eft_ext.fused_mix(logits, method, backend="reference", **options))
    details = eft_ext.fused_mix(logits, method, **options, return_details=True)
    assert torch.equal(details.tokens, tokens)
    own = [x.double().log_softmax(-1).gather(1, tokens[:, None])[:, 0] for x in logits]
    torch.testing.assert_close(details.model_logprobs.double(), torch.stack(own, 1), rtol=2e-6, atol=2e-6)


def test_draws_follow_the_formula():
    """Frequencies of 40,000 draws each, for the two methods that no plain weights give."""
    rows = 40_000
    for name in ("Contrast", "Conservative, large"):
        method, count, formula = CASES[name]
        logits = [x[:1, :50].expand(rows, 50) / 2 for x in lm_rows(count, 3)]
        seen = torch.bincount(eft_ext.fused_mix(logits, method, seed=1, position=0), minlength=50) / rows
        p = formula([x[:1] for x in logits])[0].exp()
        assert (seen - p).abs().max() < 5 * (p * (1 - p) / rows).sqrt().max()
        assert (seen[p == 0] == 0).all()
        assert 5 < (p > 0).sum() < 50


def z_of(method, logits):
    return eft_ext.combine(logits, method)


def test_limits():
    a, b, c, d = lm_rows(4)
    one = z_of(m.UpScale(1.0), [a, b, c])
    assert torch.equal(z_of(m.UpScale(0.0), [a, b, c]), a)
    assert torch.equal(z_of(m.DownScale(1.0), [a, b, c]), one)
    assert torch.equal(z_of(m.Amplify(0.0), [a, b, c]), b)
    assert_close(z_of(m.Amplify(1.0), [a, b, c]), one.double().log_softmax(-1))
    assert_close(z_of(m.UpScale(1.0), [c, b, c]), mixed([b], 1))
    assert torch.equal(z_of(m.Interpolate.between("x", "y", 1.0), [a, b, d, c]), one)
    assert torch.equal(z_of(m.Interpolate.between("x", "y", 0.0), [a, d, b, c]), one)
    assert torch.equal(z_of(m.Interpolate({"x": 0.7}), [a, b, c]), z_of(m.UpScale(0.7), [a, b, c]))
    assert torch.equal(z_of(m.Conservative(1.0, method=m.Amplify(1.3)), [a, b, c]), z_of(m.Amplify(1.3), [a, b, c]))
    assert torch.equal(z_of(m.Contrast(0.0, 0.0), [a, b]), a)
    assert z_of(m.Contrast(0.5, 1.0), [a, b]).isfinite().sum(-1).tolist() == [1] * 4, "the expert's first alone"
    assert torch.equal(z_of(m.Realign(0.0), [a, b]), a)
    assert torch.equal(z_of(m.Realign(1.0), [a, b]), b)
    assert torch.equal(z_of(m.Guidance(1.0), [a, b]), a)
    assert torch.equal(z_of(m.Guidance(0.0), [a, b]), b)
    assert torch.equal(z_of(m.Plain(), [a]), a)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_plausibility_constraint_is_exact(dtype):
    """On the very threshold: what is kept is decided by the models' own numbers, not by a rounding of the sum."""
    x = torch.tensor([[3.0, 3.0 + math.log(0.1), 0.69, 0.7, 0.71, -5.0]]).to(dtype)
    for share in (0.1, 0.09, 0.11, float((x[0, 3].double() - 3).exp()), 2e-4, 1e-30):
        kept = eft_ext.combine([x, x], m.Contrast(0.5, share)).isfinite()
        assert torch.equal(kept, x.double() >= 3.0 + math.log(torch.tensor(share).item())), "options are fp32"
    rows = x.expand(3, 6)
    shares = torch.tensor([0.1, 0.0, 1.0])
    kept = eft_ext.combine([rows, rows], m.Contrast(0.5, shares)).isfinite().sum(-1)
    assert kept.tolist() == [int((x.double() >= 3 + math.log(shares[0].item())).sum()), 6, 1]


def test_padding_does_not_set_the_threshold():
    """Columns that only the expert has, or beyond vocab_size, count for nothing."""
    a, b = lm_rows(2)
    wide = torch.cat([a, torch.full((4, 9), 1e4)], 1)
    expected = z_of(m.Contrast(), [a, b])
    assert torch.equal(z_of(m.Contrast(), [wide, b]), expected)
    both = torch.cat([b, torch.full((4, 9), 1e4)], 1)
    assert torch.equal(eft_ext.combine([wide, both], m.Contrast(), vocab_size=V), expected)


def test_bad_rows_stay_bad():
    for bad in (math.nan, math.inf):
        a, b = lm_rows(2)
        a[2, 9] = bad
        for plausibility in (0.1, torch.full((4,), 0.1)):
            tokens = eft_ext.fused_mix([a, b], m.Contrast(0.5, plausibility), temperature=0.0)
            assert (tokens < 0).tolist() == [False, False, True, False]


def test_bad_values_in_tensors_mark_their_rows():
    """Tensors as from a GPU, where `set` and the constructors do not look at them."""
    a, b, c, d = lm_rows(4)
    for method, name, logits in (
        (m.Contrast(), "plausibility", [a, b]),
        (m.Contrast(), "beta", [a, b]),
        (m.Interpolate({"x": 0.5, "y": 0.5}), "y", [a, b, c, d]),
        (m.Conservative(0.5), "top_p", [a, b, c]),
    ):
        rows = torch.tensor([0.5, math.nan, 0.5, 0.5])
        unseen = method.mapped(lambda n, v, name=name, rows=rows: rows if n == name else v)
        tokens = eft_ext.fused_mix(logits, unseen, temperature=0.0)
        assert (tokens < 0).tolist() == [False, True, False, False]


def test_a_number_and_a_tensor_of_it_agree():
    for value in (0.1, 1 / 3, 1.7, -0.3):
        rows = torch.full((4,), value, dtype=torch.float64)
        for make, count in (
            (m.UpScale, 3),
            (m.Amplify, 3),
            (m.Realign, 2),
            (m.Guidance, 2),
            (m.Contrast, 2),
            (lambda v: m.Interpolate.between("a", "b", v), 4),
            (lambda v: m.Interpolate({"a": v, "b": 0.3}), 4),
        ):
            logits = lm_rows(count)
            assert torch.equal(z_of(make(value), logits), z_of(make(rows), logits))
            assert torch.equal(z_of(make(value), logits), z_of(make(rows.tolist()), logits))
