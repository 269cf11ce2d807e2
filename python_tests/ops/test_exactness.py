"""The C++ step against the float64 oracle (numerics.md §13): kept sets, probabilities, the details' numbers."""

import itertools
from functools import cache

import pytest
import torch

from eft_ext.ops import combine, fused_mix
from eft_ext.ops.reference import distribution
from eft_ext.ops.reference.arithmetic import inverse_temperature, scaled
from eft_ext.ops.reference.mass import ranked
from python_tests.helpers.rows import ROWS, STEP_OPTIONS, models
from python_tests.helpers.slow_params import slowly

WEIGHTS = [1.0, 0.5, -0.5]
FILTERS = ("top_k", "top_p", "min_p")
SAMPLED = {name: o for name, o in STEP_OPTIONS.items() if o.get("temperature", 1.0) >= 2.0**-20}
COPIES = 64  # of each row, to draw and describe many tokens of it


def kept_set(z, kept, options):
    """Filters keep a prefix of the rank, so the C++ step's count says which tokens it kept; bool [B, V]."""
    t = scaled(z, inverse_temperature(torch.full((z.shape[0],), options.get("temperature", 1.0))))
    first = torch.arange(z.shape[1]) < kept[:, None]
    return torch.zeros_like(first).scatter(1, ranked(t), first)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    ("dtype", "vocab"),
    [
        (torch.float32, 31),
        pytest.param(torch.float32, 2100, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, 5000, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_kept_sets_and_probabilities(rows, dtype, vocab):
    once = models(rows, 3, 2, vocab, dtype, seed=vocab)
    logits = [x.repeat(COPIES, 1) for x in once]
    z = combine(once, WEIGHTS)
    oracle_of = cache(lambda *options: distribution(once, WEIGHTS, **dict(options)))
    for name, options in SAMPLED.items():
        details = fused_mix(logits, WEIGHTS, seed=5, position=2, return_details=True, **options)
        oracle = oracle_of(*options.items())
        whole = oracle_of(*((k, v) for k, v in options.items() if k not in FILTERS))
        valid = ~oracle.isnan().any(dim=1)
        assert torch.equal(details.status == 0, valid.repeat(COPIES)), name
        assert (details.num_kept.view(COPIES, -1) == details.num_kept[: len(z)]).all(), name
        if not valid.any():
            continue

        kept = kept_set(z, details.num_kept[: len(z)], options)[valid]
        oracle, whole = oracle[valid], whole[valid]
        differ = torch.where(kept != (oracle > 0), whole, 0.0)
        assert differ.sum(dim=1).max() <= 1e-6, name

        # The oracle's filters may differ by ε of mass; its probabilities are compared over one set.
        over_kept = torch.where(kept, whole, 0.0)
        over_kept /= over_kept.sum(dim=1, keepdim=True)
        token = details.tokens.view(COPIES, -1)[:, valid].T  # [valid rows, COPIES]
        want = over_kept.gather(1, token)
        assert (want > 0).all(), f"{name}: a token without probability was drawn"
        got = details.logprobs.view(COPIES, -1)[:, valid].T.double().exp()
        tolerance = torch.where(want < 1e-6, 1e-4, 1e-5) * want + 2.0**-39 * over_kept.amax(dim=1, keepdim=True)
        tolerance += want * want.log().abs() * 2.0**-23  # logprobs are stored in fp32
        assert ((got - want).abs() <= tolerance).all(), name


@pytest.mark.parametrize("rows", ["lm", "flat", "bf16_ties", "masked", "wide", "cliffs", "huge", "subnormal"])
def test_what_the_details_say_of_the_mixture_and_the_models(rows):
    logits = [x.repeat_interleave(COPIES, dim=0) for x in models(rows, 3, 2, 3000, torch.float32, seed=3)]
    details = fused_mix(logits, WEIGHTS, seed=6, position=1, return_details=True, top_logprobs=20, top_p=0.99)
    token = details.tokens[:, None]
    rel = {"rtol": 1e-5, "atol": 1e-5}
    raw = torch.log_softmax(combine(logits, WEIGHTS).double(), dim=1)
    torch.testing.assert_close(details.raw_logprobs.double(), raw.gather(1, token).squeeze(1), **rel)
    torch.testing.assert_close(details.entropy.double(), torch.special.entr(raw.exp()).sum(dim=1), **rel)
    torch.testing.assert_close(details.top_logprobs.double(), raw.gather(1, details.top_ids), **rel)
    lowest = torch.finfo(torch.float32).min
    own = [torch.where(x == lowest, -torch.inf, x.double()).log_softmax(dim=1).gather(1, token) for x in logits]
    torch.testing.assert_close(details.model_logprobs.double(), torch.cat(own, dim=1), **rel)


@pytest.mark.parametrize("vocab", [32000, *slowly(128256)])
def test_kept_sets_of_real_vocabularies(vocab):
    logits = models("lm", 3, 2, vocab, torch.bfloat16)
    z = combine(logits, WEIGHTS)
    whole = distribution(logits, WEIGHTS, temperature=0.7)
    for p, k in itertools.product((0.5, 0.9, 0.999, 1 - 2.0**-20), (0, 200)):
        options = {"temperature": 0.7, "top_p": p, "top_k": k}
        details = fused_mix(logits, WEIGHTS, seed=5, position=2, return_details=True, **options)
        oracle = distribution(logits, WEIGHTS, **options)
        differ = torch.where(kept_set(z, details.num_kept, options) != (oracle > 0), whole, 0.0)
        assert differ.sum(dim=1).max() <= 1e-6, f"p={p} k={k}"


@pytest.mark.parametrize("vocab", [65536, 128256])
@pytest.mark.parametrize("rows", ["equal", "flat", "two_level"])
def test_a_nucleus_of_nothing_is_the_first_of_the_rank(rows, vocab):
    """top_p = 0 where the candidates of a nucleus are too many to rank."""
    logits = models(rows, 1, 2, vocab)
    first = ranked(logits[0])[:, 0]
    for p in (0.0, 1e-30):
        details = fused_mix(logits, [1.0], top_p=p, seed=1, position=0, return_details=True)
        assert torch.equal(details.tokens, first)
        assert details.num_kept.tolist() == [1, 1]
