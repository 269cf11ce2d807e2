"""fused_verify: the CPU against the reference token for token, and invariances."""

import pytest
import torch

from eft_ext import backends
from eft_ext.ops import VerifyResult, force_isa, fused_mix, fused_verify
from python_tests.helpers.drafts import EFT, blocks, propose, same
from python_tests.helpers.rows import ROWS, STEP_OPTIONS
from python_tests.helpers.slow_params import slowly

ISAS = [name for name in ("portable", "avx2", "avx512") if name in backends()["cpu"].detail]


@pytest.fixture(autouse=True)
def usual_isa():
    yield
    force_isa("auto")


@pytest.mark.parametrize("part", [0, *slowly(1)])
@pytest.mark.parametrize("name", ROWS)
def test_the_same_as_the_reference(name, part):
    """Every kind of row with every set of options, of which the draft model has its own in turn.

    Part 0 has a sixth of them, other ones for every kind, so that each set and each kind occurs.
    """
    sets, seeds = list(STEP_OPTIONS.values()), torch.arange(4) + 11
    for n, options in enumerate(sets):
        if ((n + list(ROWS).index(name)) % 6 == 0) != (part == 0):
            continue
        dtype = (torch.bfloat16, torch.float32, torch.float16)[n % 3]
        logits = blocks(name, 3, 4, 3, (1000, 1025, 31)[n % 3], dtype, seed=n)
        weights = (EFT, [1.0, 0.3, -0.3])[n % 2]
        own = options if n % 2 else sets[n * 5 % len(sets)]
        draft_logits = logits[1][:, :3]
        drafts = propose(draft_logits, seeds, 7, **own).clamp(min=0)
        given = {f"draft_{key}": value for key, value in {"temperature": 1.0, "top_p": 1.0, "top_k": 0, **own}.items()}
        call = {"seed": seeds, "position": 7, **options, **given}
        want = fused_verify(drafts, draft_logits, logits, weights, backend="reference", **call)
        for isa in ISAS:
            force_isa(isa)
            assert same(fused_verify(drafts, draft_logits, logits, weights, backend="cpu", **call), want), (isa, call)


@pytest.mark.slow
def test_the_same_where_drafts_are_nearly_right():
    """Few rejections a row, so that later positions, residuals and bonus tokens are reached."""
    seeds = torch.arange(16)
    outcomes = set()
    for n, options in enumerate(({}, {"temperature": 0.7, "top_p": 0.95}, {"top_k": 50}, {"min_p": 0.01})):
        logits = blocks("lm", 3, 16, 4, 700, torch.bfloat16, seed=n)
        drafts = propose(logits[1][:, :4], seeds, **options)
        call = (drafts, logits[1][:, :4], logits, [0.4, 0.7, -0.1])
        got, want = (fused_verify(*call, seed=seeds, position=0, backend=b, **options) for b in ("cpu", "reference"))
        assert same(got, want)
        outcomes |= set(got.num_accepted.tolist())
    assert outcomes == {0, 1, 2, 3, 4}


@pytest.mark.slow
@pytest.mark.parametrize("outside", ["keep", "drop"])
def test_conservative_masks_and_bias_are_the_mixtures(outside):
    batch, k, vocab = 6, 3, 1100
    logits, seeds = blocks("lm", 3, batch, k, vocab), torch.arange(batch)
    noise = torch.Generator().manual_seed(1)
    bias = torch.randn(batch, vocab, generator=noise)
    token_bitmask = torch.randint(-(2**31), 2**31, (batch, k + 1, 35), generator=noise, dtype=torch.int64).int()
    drafts = torch.stack(
        [
            fused_mix([logits[1][:, i]], [1.0], seed=seeds, position=i, bias=bias, token_bitmask=token_bitmask[:, i])
            for i in range(k)
        ],
        dim=1,
    )
    shared = {"seed": seeds, "position": 0, "bias": bias, "token_bitmask": token_bitmask}
    call = (drafts, logits[1][:, :k], logits, [1.2, 1.0, -1.2])
    nucleus = {"conservative_top_p": 0.9, "conservative_outside": outside}
    got, want = (fused_verify(*call, backend=b, **shared, **nucleus) for b in ("cpu", "reference"))
    assert same(got, want)
    assert not same(got, fused_verify(*call, **shared))
    for i, row in enumerate(got.tokens):
        for at, token in enumerate(row[row >= 0].tolist()):
            assert int(token_bitmask[i, at, token // 32]) >> (token % 32) & 1, "a forbidden token"
    one_mask = {**shared, "token_bitmask": token_bitmask[:, 0]}
    assert same(fused_verify(*call, **one_mask), fused_verify(*call, backend="reference", **one_mask))


def test_every_option_may_differ_from_row_to_row():
    batch, k = 5, 3
    logits, seeds = blocks("lm", 4, batch, k, 900), torch.arange(batch) * 3
    heat = torch.tensor([0.0, 0.7, 1.0, 1.3, 1.0])
    options = {"temperature": heat, "top_p": torch.tensor([0.9, 1.0, 0.8, 0.5, 0.0])}
    options |= {"top_k": torch.tensor([0, 5, 0, 50, 1]), "min_p": torch.tensor([0.0, 0.0, 0.1, 0.0, 0.0])}
    own = {"draft_temperature": torch.tensor([1.0, 0.0, 1.0, 0.5, 0.0]), "draft_top_k": torch.tensor([0, 0, 3, 7, 1])}
    weights = torch.tensor([[1.0, 0.5, 0.5, -1.0]]).repeat(batch, 1) * torch.linspace(0.5, 1.0, batch)[:, None]
    lengths, positions = torch.tensor([3, 2, 0, 1, 3]), torch.tensor([0, 5, 2**40, 1, 9])
    draw = {"temperature": own["draft_temperature"], "top_k": own["draft_top_k"], "top_p": options["top_p"]}
    drafts = propose(logits[1][:, :k], seeds, positions, min_p=options["min_p"], **draw)
    call = (drafts, logits[1][:, :k], logits)
    rest = {"lengths": lengths, "seed": seeds, "position": positions}
    whole = fused_verify(*call, weights, **options, **own, **rest)
    assert same(whole, fused_verify(*call, weights, **options, **own, **rest, backend="reference"))
    assert (whole.num_accepted <= lengths).all()
    assert (whole.status == 0).all()
    for b in range(batch):  # a row alone, with numbers in place of tensors
        mine = {name: x[b].item() for name, x in {**options, **own}.items()}
        one = fused_verify(
            drafts[b : b + 1],
            logits[1][b : b + 1, :k],
            [x[b : b + 1] for x in logits],
            weights[b].tolist(),
            lengths=int(lengths[b]),
            seed=seeds[b : b + 1],
            position=int(positions[b]),
            **mine,
        )
        assert same(one, [x[b : b + 1] for x in whole])


def test_slots_threads_strides_and_padding_change_nothing():
    batch, k, vocab = 9, 4, 32000
    logits, seeds = blocks("lm", 3, batch, k, vocab, torch.bfloat16), torch.arange(batch) + 5
    drafts = propose(logits[1][:, :k], seeds)
    options = {"position": 0, "top_p": 0.95}
    weights = [0.2, 0.9, -0.1]
    want = fused_verify(drafts, logits[1][:, :k], logits, weights, seed=seeds, **options)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(0))
    moved = [x[order] for x in logits]
    got = fused_verify(drafts[order], moved[1][:, :k], moved, weights, seed=seeds[order], **options)
    assert same(got, [x[order] for x in want])

    wide = [torch.full((batch, k + 3, vocab + 5), torch.nan, dtype=x.dtype) for x in logits]
    for room, x in zip(wide, logits, strict=True):
        room[:, 1 : k + 2, 3 : vocab + 3] = x
    cut = [room[:, 1 : k + 2, 3:] for room in wide]
    got = fused_verify(drafts, cut[1][:, :k], cut, weights, seed=seeds, vocab_size=vocab, **options)
    assert same(got, want)

    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert same(fused_verify(drafts, logits[1][:, :k], logits, weights, seed=seeds, **options), want)
    finally:
        torch.set_num_threads(threads)
    out = VerifyResult(torch.empty(batch, k + 1, dtype=torch.int64), *(torch.empty_like(x) for x in want[1:]))
    assert fused_verify(drafts, logits[1][:, :k], logits, weights, seed=seeds, out=out, **options) is out
    assert same(out, want)


def test_seeds_and_generators():
    logits = blocks("flat", 3, 8, 2, 500)
    call = (propose(logits[1][:, :2], 3), logits[1][:, :2], logits, EFT)
    assert same(fused_verify(*call, seed=3, position=0), fused_verify(*call, seed=3, position=0))
    assert not same(fused_verify(*call, seed=3, position=0), fused_verify(*call, seed=4, position=0))
    assert not same(fused_verify(*call, seed=3, position=0), fused_verify(*call, seed=3, position=1))
    torch.manual_seed(5)
    first = fused_verify(*call)
    torch.manual_seed(5)
    assert same(fused_verify(*call), first)
    assert not same(fused_verify(*call), first)


def test_a_row_of_no_drafts_takes_the_ordinary_step():
    logits = blocks("lm", 3, 6, 2, 700)
    seeds = torch.arange(6)
    options = {"temperature": 0.8, "top_p": 0.9}
    none = torch.zeros(6, 2, dtype=torch.int64)
    found = fused_verify(none, logits[1][:, :2], logits, EFT, lengths=0, seed=seeds, position=4, **options)
    want = fused_mix([x[:, 0] for x in logits], EFT, seed=seeds, position=4, **options)
    assert torch.equal(found.tokens[:, 0], want)
    assert (found.tokens[:, 1:] == -1).all()


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"temperature": 0.0}, {"temperature": 1.4, "top_k": 40}])
def test_a_draft_model_that_is_the_mixture_is_always_right(options):
    """p = q: every draft stands, whatever u is, and the tokens are those of ordinary steps."""
    k, seeds = 5, torch.arange(30)
    logits = blocks("lm", 1, 30, k, 1025)
    drafts = propose(logits[0][:, :k], seeds, **options)
    for weights, all_models in (([1.0], logits), ([1.0, 1.0, -1.0], [logits[0], logits[0] * 0 + 1, logits[0] * 0 + 1])):
        found = fused_verify(drafts, logits[0][:, :k], all_models, weights, seed=seeds, position=0, **options)
        assert (found.num_accepted == k).all()
        bonus = fused_mix([logits[0][:, k]], [1.0], seed=seeds, position=k, **options)
        assert torch.equal(found.tokens, torch.cat([drafts, bonus[:, None]], dim=1))


def test_supports_that_do_not_meet():
    """q lives on even tokens, p on odd ones: the first draft is rejected and an odd token follows."""
    even, odd = torch.zeros(1, 1, 1500), torch.zeros(1, 1, 1500)
    even[..., 1::2], odd[..., ::2] = -torch.inf, -torch.inf
    batch, k = 200, 2
    even, odd, seeds = even.expand(batch, k + 1, -1), odd.expand(batch, k + 1, -1), torch.arange(batch)
    drafts = propose(even[:, :k], seeds)
    found = fused_verify(drafts, even[:, :k], [odd], [1.0], seed=seeds, position=0)
    assert (found.num_accepted == 0).all()
    assert (found.tokens[:, 0] % 2 == 1).all()
    assert len(found.tokens[:, 0].unique()) > 100


def test_logits_behind_a_rejection_are_not_looked_at():
    logits = blocks("lm", 3, 12, 3, 400)
    for x in logits:
        x[:, 2:] = torch.nan
    drafts = propose(logits[1][:, :3], 1).clamp(min=0)
    drafts[:, 2] = -7
    found = fused_verify(drafts, logits[1][:, :3], logits, EFT, temperature=0.0, seed=1, position=0)
    wanted = torch.where(found.num_accepted < 2, 0, 1)
    assert torch.equal(found.status, wanted.int())
    assert 0 < wanted.sum() < 12
    assert (found.tokens[found.status == 1, 2] == -1).all()
    assert (found.tokens[found.status == 1, :2] >= 0).all()


def test_what_is_bad_spoils_its_row_only():
    batch, k = 10, 2
    logits, seeds = blocks("flat", 3, batch, k, 300), torch.arange(batch)
    drafts = propose(logits[1][:, :k], seeds)
    draft_logits = logits[1][:, :k].clone()
    weights = [0.0, 1.0, 0.0]  # p = q: a row that is not spoilt accepts all
    want = fused_verify(drafts, draft_logits, logits, weights, seed=seeds, position=0)
    draft_logits[0, 1, 3] = torch.nan
    logits[1][1, 0, 5] = torch.inf
    logits[2][2, 2, :] = -torch.inf
    bad = drafts.clone()
    bad[3, 0], bad[4, 1] = 300, -1
    lengths = torch.tensor([2, 2, 2, 2, 2, 3, -1, 2, 2, 2])
    heat, own_heat = torch.ones(batch), torch.ones(batch)
    heat[7], own_heat[8] = torch.nan, -1.0
    options = {"temperature": heat, "draft_temperature": own_heat, "lengths": lengths, "seed": seeds, "position": 0}
    got, plain = (fused_verify(bad, draft_logits, logits, weights, backend=b, **options) for b in ("cpu", "reference"))
    assert same(got, plain)
    assert got.status.tolist() == [1] * 9 + [0]
    assert got.num_accepted.tolist() == [1, 0, 2, 0, 1, 0, 0, 0, 0, 2]
    assert torch.equal(got.tokens[9], want.tokens[9])


def test_drafts_that_are_certain_need_no_logits():
    logits, seeds = blocks("two_level", 3, 50, 3, 90), torch.arange(50)
    drafts = propose(logits[1][:, :3], seeds, temperature=0.0)
    options = {"draft_temperature": 0.0, "seed": seeds, "position": 0}
    got = fused_verify(drafts, None, logits, [0.3, 1.0, 0.0], **options)
    assert same(got, fused_verify(drafts, logits[1][:, :3], logits, [0.3, 1.0, 0.0], **options))
    assert same(got, fused_verify(drafts, None, logits, [0.3, 1.0, 0.0], backend="reference", **options))
    rejected = got.tokens[torch.arange(50), got.num_accepted]
    at = got.num_accepted.clamp(max=2)
    assert (rejected != drafts[torch.arange(50), at])[got.num_accepted < 3].all(), "a rejected draft was drawn again"
