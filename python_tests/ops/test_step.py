"""The C++ step against the reference: the same tokens, bit for bit (numerics.md §1 to §5)."""

import itertools

import pytest
import torch

from eft_ext.ops import fused_mix, fused_step
from python_tests.helpers.rows import models

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def both(logits, weights, **options):
    """The CPU's and the reference's details of one step."""
    common = {"seed": 11, "position": 5, "return_details": True, **options}
    return [fused_mix(logits, weights, backend=name, **common) for name in ("cpu", "reference")]


def assert_same(got, want, context):
    """Integers equal; floats to 1e-5 (numerics.md §13), 1e-4 where the probability is below 1e-6."""
    for name, x, y in zip(got._fields, got, want, strict=True):
        if not x.is_floating_point():
            assert torch.equal(x, y), f"{context}: {name} {x.tolist()} is not {y.tolist()}"
            continue
        tolerance = torch.where(y < -13.8, 1e-4, 1e-5) + 2**-22 * y.abs()
        close = (x == y) | ((x - y).abs() <= tolerance) | (x.isnan() & y.isnan())
        assert close.all(), f"{context}: {name} {x[~close].tolist()} is not {y[~close].tolist()}"


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_models(count):
    weights = [1.0, -0.5, 1.5, 0.25][:count]
    for rows in ("lm", "bf16_ties", "wide"):
        logits = models(rows, count, 4, 2100)
        got, want = both(logits, weights, top_p=0.9, top_logprobs=5)
        assert_same(got, want, f"K={count} {rows}")


def test_models_of_different_dtypes_and_widths():
    large, tuned, base = (models("lm", 3, 4, 1300, torch.float32)[k] for k in range(3))
    mixed = [large.bfloat16(), tuned.half(), base[:, :1200]]
    got, want = both(mixed, [1.0, 0.7, -0.7], top_k=40)
    assert_same(got, want, "mixed dtypes")
    cut = [x[:, :1200].contiguous() for x in mixed]
    assert torch.equal(fused_mix(cut, [1, 0.7, -0.7], top_k=40, seed=11, position=5), got.tokens)
    narrow, _ = both(mixed, [1.0, 0.7, -0.7], vocab_size=900)
    assert (narrow.tokens < 900).all()


def test_padding_is_never_inspected():
    logits = models("lm", 3, 3, 2000)
    padded = [torch.cat([x, torch.full((3, 64), torch.nan)], dim=1) for x in logits]
    options = {"seed": 3, "position": 1, "top_p": 0.9}
    assert torch.equal(fused_step(*padded, vocab_size=2000, **options), fused_step(*logits, **options))


def test_rows_of_a_sequence_work_without_a_copy():
    whole = [torch.stack([x] * 3, dim=1) for x in models("lm", 3, 4, 1500)]  # [B, T, V]
    options = {"seed": 3, "position": 1}
    last = [x[:, -1] for x in whole]
    assert last[0].stride(0) == 3 * 1500
    assert torch.equal(fused_step(*last, **options), fused_step(*(x.contiguous() for x in last), **options))


def test_every_option_may_differ_from_row_to_row():
    logits = models("lm", 3, 6, 2048, torch.bfloat16)
    rows = {
        "temperature": torch.tensor([0.0, 0.5, 1.0, 2.0, 1e-40, 1.0]),
        "top_k": torch.tensor([0, 5, 50, 0, 3, 1]),
        "top_p": torch.tensor([1.0, 0.9, 0.5, 0.95, 1.0, 0.0]),
        "min_p": torch.tensor([0.0, 0.0, 0.05, 0.01, 0.5, 0.0]),
        "seed": torch.tensor([1, 2, -3, 2**62, 5, 6]),
        "position": torch.tensor([0, 1, 2, 3, 2**40, 5]),
    }
    beta = torch.tensor([1.0, 0.5, 0.0, 1.5, -1.0, 1.0])
    together = fused_step(*logits, beta=beta, **rows)
    assert torch.equal(together, fused_step(*logits, beta=beta, backend="reference", **rows))
    for b in range(6):
        alone = fused_step(
            *(x[b : b + 1] for x in logits), beta=beta[b].item(), **{k: v[b : b + 1] for k, v in rows.items()}
        )
        assert alone.item() == together[b].item(), f"row {b} depends on its batch"


def test_scalars_and_tensors_of_one_value_agree():
    logits = models("lm", 3, 2, 2048)
    scalars = {"temperature": 0.7, "top_p": 0.9, "min_p": 0.01}
    tensors = {name: torch.full((2,), value) for name, value in scalars.items()}
    where = {"seed": torch.tensor([8, 9]), "position": 2}
    assert torch.equal(fused_step(*logits, **scalars, **where), fused_step(*logits, **tensors, **where))
    weights = torch.tensor([1.0, 0.3, -0.3])
    by_list = fused_mix(logits, [1.0, 0.3, -0.3], **where)
    assert torch.equal(by_list, fused_mix(logits, weights, **where))
    assert torch.equal(by_list, fused_mix(logits, weights.expand(2, 3), **where))
    assert torch.equal(by_list, fused_step(*logits, beta=torch.full((2,), 0.3), **where))


def test_the_two_forms():
    logits = models("lm", 3, 4, 2048)
    where = {"seed": 4, "position": 0, "top_p": 0.9}
    large, tuned, base = logits
    assert torch.equal(fused_step(*logits, scale=1.3, **where), fused_mix(logits, [1.3, 1.0, -1.3], **where))
    assert torch.equal(fused_step(*logits, beta=0.0, **where), fused_mix([large], [1.0], **where))
    assert torch.equal(fused_step(*logits, scale=0.0, **where), fused_mix([tuned], [1.0], **where))
    swapped = fused_step(base, tuned, base, **where)  # large = base, beta = 1 gives back tuned, up to rounding
    assert (swapped == fused_mix([tuned], [1.0], **where)).float().mean() >= 0.75


@pytest.mark.parametrize(
    ("defining", "outside"),
    [
        ("large", "keep"),
        pytest.param("large", "drop", marks=pytest.mark.slow),
        pytest.param("tuned", "keep", marks=pytest.mark.slow),
        ("tuned", "drop"),
        ("base", "keep"),
        pytest.param("base", "drop", marks=pytest.mark.slow),
    ],
)
def test_conservative(outside, defining):
    for rows, nucleus in itertools.product(("lm", "flat", "masked", "nan", "wide"), (0.0, 0.5, 0.9, 1.0)):
        logits = models(rows, 3, 3, 2500)
        options = {
            "conservative_top_p": nucleus,
            "conservative_set": defining,
            "conservative_outside": outside,
        }
        common = {"scale": 1.5, "seed": 2, "position": 3, "top_p": 0.95, "return_details": True, **options}
        got, want = (fused_step(*logits, backend=name, **common) for name in ("cpu", "reference"))
        assert_same(got, want, f"{rows} q={nucleus}")


def test_bias_and_bitmask():
    logits = models("lm", 3, 3, 1111, torch.float16)
    bias = torch.randn(1111, generator=torch.Generator().manual_seed(0))
    token_bitmask = torch.randint(
        -(2**31), 2**31, (3, 35), dtype=torch.int32, generator=torch.Generator().manual_seed(1)
    )
    for options in (
        {"bias": bias},
        {"bias": bias.expand(3, -1).contiguous()},
        {"token_bitmask": token_bitmask},
        {"bias": bias, "token_bitmask": token_bitmask},
    ):
        got, want = both(logits, [1.0, 1.0, -1.0], top_p=0.9, **options)
        assert_same(got, want, str(list(options)))
    for position in range(200):
        tokens = fused_step(*logits, token_bitmask=token_bitmask, seed=1, position=position)
        for row, token in enumerate(tokens.tolist()):
            assert token_bitmask[row, token // 32].item() >> (token % 32) & 1


def test_threads_and_slots_do_not_matter():
    logits = models("lm", 3, 64, 4000, torch.bfloat16)
    seeds = torch.arange(64)
    before = torch.get_num_threads()
    draws = []
    for threads in (1, 2, before):
        torch.set_num_threads(threads)
        draws.append(fused_step(*logits, seed=seeds, position=9, top_p=0.9))
    torch.set_num_threads(before)
    assert all(torch.equal(d, draws[0]) for d in draws)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    shuffled = fused_step(*(x[order] for x in logits), seed=seeds[order], position=9, top_p=0.9)
    assert torch.equal(shuffled, draws[0][order])


def test_flushed_subnormals_change_nothing():
    logits = models("subnormal", 3, 2, 1500)
    want = fused_mix(logits, [1.0, 1.0, -1.0], temperature=0)
    torch.set_flush_denormal(True)
    try:
        assert torch.equal(fused_mix(logits, [1.0, 1.0, -1.0], temperature=0), want)
        assert (torch.tensor([1e-40]) * 1.0).item() == 0.0, "the caller's mode must come back"
    finally:
        torch.set_flush_denormal(False)


def test_an_invalid_row_leaves_its_neighbours_alone():
    logits = [x.clone() for x in models("lm", 3, 5, 1500)]
    clean = fused_step(*logits, seed=1, position=0, top_p=0.9)
    logits[0][1, 7], logits[1][2, 3] = torch.nan, torch.inf
    logits[2][3] = -torch.inf
    details = fused_step(*logits, seed=1, position=0, top_p=0.9, return_details=True, top_logprobs=2)
    assert details.status.tolist() == [0, 1, 1, 1, 0]
    assert details.tokens[[0, 4]].equal(clean[[0, 4]])
    assert details.tokens[1:4].tolist() == [-1, -1, -1]
    assert details.entropy[1:4].isnan().all()
    assert details.top_ids[1:4].eq(-1).all()


def test_what_another_model_excludes_does_not_spoil_a_models_own_logprob():
    for bad in (torch.inf, torch.nan):
        first, second = torch.zeros(1, 4), torch.zeros(1, 4)
        first[0, 3], second[0, 3] = bad, -torch.inf
        got, want = both([first, second], [1.0, 1.0])
        assert_same(got, want, str(bad))
        assert got.status.item() == 0


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("temperature", [-1.0, torch.nan, torch.inf]),
        ("top_p", [-0.1, 1.1, torch.nan]),
        ("min_p", [-0.1, 1.1, torch.nan]),
        ("top_k", [-1]),
        ("position", [-1]),
    ],
)
def test_a_bad_value_in_an_option_tensor_marks_its_row(name, bad):
    logits = models("lm", 3, 2, 300)
    for value in bad:
        good = {"top_k": 4, "position": 4}.get(name, 0.5)
        options = {"seed": 1, "position": 0, name: torch.tensor([good, value])}
        tokens = fused_step(*logits, **options)
        assert tokens[0] >= 0
        assert tokens[1] == -1
        assert torch.equal(tokens, fused_step(*logits, backend="reference", **options))


def test_out_and_details_out_are_written_in_place():
    logits = models("lm", 3, 4, 1000)
    options = {"seed": 1, "position": 0, "top_p": 0.9}
    want = fused_step(*logits, return_details=True, top_logprobs=3, **options)
    out = torch.full((4,), -7)
    assert fused_step(*logits, out=out, **options) is out
    assert torch.equal(out, want.tokens)
    blank = type(want)(*(torch.zeros_like(x) for x in want))
    assert fused_step(*logits, details_out=blank, **options) is blank
    assert_same(blank, want, "details_out")


def test_seeds_come_from_torch_where_none_is_given():
    logits = models("flat", 3, 8, 1000)
    torch.manual_seed(5)
    first = [fused_step(*logits) for _ in range(3)]
    torch.manual_seed(5)
    assert all(torch.equal(x, fused_step(*logits)) for x in first)
    assert not torch.equal(first[0], first[1])
    a, b = (fused_step(*logits, generator=torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(a, b)
    state = torch.get_rng_state()
    fused_step(*logits, temperature=0)
    assert torch.equal(state, torch.get_rng_state()), "greedy draws nothing"
