"""Scoring: the reference against the definitions, the CPU kernel against the reference."""

import math

import pytest
import torch

import eft_ext
from eft_ext import Score, fused_score, fused_score_mix, reference
from eft_ext.ops.backends import reference_backend
from python_tests.helpers.rows import models as rows

WEIGHTS = {1: [1.0], 2: [1.5, -0.5], 3: [1.0, 0.7, -0.7], 4: [1.0, 0.5, 0.5, -1.0]}
LISTS = {"top_ids": "top_logprobs", "up_ids": "up_log_ratios", "down_ids": "down_log_ratios"}


def some_targets(batch, vocab, seed=0):
    return torch.randint(0, vocab, (batch,), generator=torch.Generator().manual_seed(seed))


def assert_agrees(got: Score, want: Score):
    """Floats to 2e-6 of the float64 reference, or 3e-7 where that is smaller; integers exactly.

    The order of `up` and `down` is that of a difference in fp32: listed tokens are checked by their gains.
    """
    for name, a in got._asdict().items():
        b = getattr(want, name)
        if name.startswith(("up_", "down_")):
            continue
        if not a.is_floating_point():
            assert torch.equal(a, b.to(a.dtype)), name
            continue
        torch.testing.assert_close(a.double(), b.double(), rtol=2e-6, atol=3e-7, equal_nan=True)


def test_the_reference_is_the_definitions():
    torch.manual_seed(0)
    logits = [torch.randn(5, 50).double().float() * 3 for _ in range(3)]
    targets = torch.tensor([3, 0, 49, 7, 7])
    found = reference.score(logits, [1.0, 1.5, -1.5], targets, compared=1, num_top=2, num_changed=1)
    z = reference.combine(logits, [1.0, 1.5, -1.5])
    for d, x in enumerate([*logits, z]):
        logp = x.double().log_softmax(-1)
        p = logp.exp()
        assert found.logprobs[:, d].tolist() == pytest.approx(logp[range(5), targets].tolist(), abs=1e-6)
        assert found.entropy[:, d].tolist() == pytest.approx((-p * logp).sum(-1).tolist(), abs=1e-6)
        assert found.max_prob[:, d].tolist() == pytest.approx(p.amax(-1).tolist(), abs=1e-6)
        assert found.log1m_max[:, d].tolist() == pytest.approx(torch.log1p(-p.amax(-1)).tolist(), abs=1e-6)
        assert found.sum_squares[:, d].tolist() == pytest.approx((p * p).sum(-1).tolist(), abs=1e-6)
        assert found.argmax[:, d].tolist() == p.argmax(-1).tolist()
        order = x.argsort(dim=-1, descending=True)
        assert [order[b].tolist().index(targets[b]) for b in range(5)] == found.rank[:, d].tolist()
        assert found.top_ids[:, d].tolist() == order[:, :2].tolist()
    p, q = z.double().softmax(-1), logits[1].double().softmax(-1)
    assert found.tv.tolist() == pytest.approx(((p - q).abs().sum(-1) / 2).tolist(), abs=1e-6)
    assert found.kl.tolist() == pytest.approx((p * (p / q).log()).sum(-1).tolist(), abs=1e-6)
    assert found.up_ids[:, 0].tolist() == (p - q).argmax(-1).tolist()
    assert found.down_ids[:, 0].tolist() == (p - q).argmin(-1).tolist()
    log_ratio = (p / q).log()
    assert found.up_log_ratios[:, 0].tolist() == pytest.approx(log_ratio.gather(1, found.up_ids)[:, 0].tolist(), 1e-5)
    assert found.reward.tolist() == pytest.approx((found.logprobs[:, 1] - found.logprobs[:, 2]).tolist())


def exact_changes(logits, weights, compared):
    """The rows' statuses, and log-probabilities of the mixture and of one model in float64."""
    exact = reference.score(logits, weights, torch.zeros(len(logits[0]), dtype=torch.int64), compared=compared)
    z = reference.combine(logits, weights).double()
    own = reference.combine([logits[compared]], [1.0]).double()
    # Relative to the maxima: logits may be 1e30.
    logp, logq = (x - x.amax(1, keepdim=True) for x in (z, own))
    return exact.status, *(x - x.logsumexp(1, keepdim=True) for x in (logp, logq))


def assert_changes(got, logits, weights, compared, exact=None):
    """Listed tokens have the largest gains, in order, and their true log-ratios."""
    exact_status, *both = exact or exact_changes(logits, weights, compared)
    for b in torch.nonzero(got.status == 0).flatten().tolist():
        logp, logq = (x[b] for x in both)
        gain = logp.exp() - logq.exp()
        for sign, ids, ratios in (
            (1, got.up_ids[b], got.up_log_ratios[b]),
            (-1, got.down_ids[b], got.down_log_ratios[b]),
        ):
            best = (sign * gain).sort(descending=True).values[: len(ids)]
            for place, (token, ratio) in enumerate(zip(ids.tolist(), ratios.tolist(), strict=True)):
                if token < 0:
                    assert ratio == 0.0
                    assert place >= len(best) or best[place] < 1e-7
                    continue
                assert sign * float(gain[token]) == pytest.approx(float(best[place]), abs=3e-7)
                assert ratio == pytest.approx(float(logp[token] - logq[token]), rel=2e-6, abs=6e-7)
    read = got.status != 2  # no target is ignored in `exact`
    assert exact_status[read].tolist() == got.status[read].tolist()


def test_one_token_alone():
    for x in (torch.zeros(1, 1), torch.tensor([[-math.inf, 3.0, -math.inf]])):
        got = fused_score_mix([x], [1.0], torch.tensor([x.shape[1] // 2]))
        assert got.logprobs.tolist() == [[0.0, 0.0]]
        assert got.log1m_max.tolist() == [[-math.inf, -math.inf]]
        assert got.entropy.tolist() == [[0.0, 0.0]]
    assert fused_score_mix([x], [1.0], torch.tensor([2])).logprobs.tolist() == [[-math.inf, -math.inf]]
    assert fused_score_mix([x], [1.0], torch.tensor([2])).rank.tolist() == [[2, 2]]


def test_sequences_without_a_copy():
    """[B, T, V], shifted by one as a language model's loss shifts them."""
    whole = [x.view(3, 7, 500) for x in rows("lm", 3, 21, 500, torch.bfloat16)]
    ids = some_targets(21, 500).view(3, 7)
    for logits, targets in (
        (whole, ids),
        ([x[:, :-1] for x in whole], ids[:, 1:]),
        ([whole[0][1:2], whole[1][1:2], whole[2][1:2]], ids[1:2]),
        ([x[:, :, :400] for x in whole], ids % 400),
        ([x.transpose(0, 1) for x in whole], ids.T),
        ([x[:, 2:3] for x in whole], ids[:, 2:3]),
    ):
        got = fused_score(*logits, targets, beta=0.5, num_top=2, num_changed=2)
        flat = [x.reshape(-1, x.shape[-1]) for x in logits]
        want = fused_score(*flat, targets.reshape(-1), beta=0.5, num_top=2, num_changed=2)
        for name, field in got._asdict().items():
            assert field.shape[:2] == targets.shape, name
            torch.testing.assert_close(field.flatten(0, 1), getattr(want, name), rtol=0, atol=0)


def test_options_per_row_and_per_position():
    logits = [x.view(2, 3, 300) for x in rows("lm", 3, 6, 300)]
    targets = some_targets(6, 300).view(2, 3)
    beta = torch.tensor([[0.0, 0.5, 1.0], [1.5, -1.0, 2.0]])
    got = fused_score(*logits, targets, beta=beta)
    for b in range(2):
        for t in range(3):
            alone = fused_score(*[x[b, t : t + 1] for x in logits], targets[b, t : t + 1], beta=float(beta[b, t]))
            assert torch.equal(got.logprobs[b, t], alone.logprobs[0])
            assert torch.equal(got.kl[b, t], alone.kl[0])
    per_row = fused_score(*logits, targets, scale=torch.tensor([0.5, 2.0]))
    assert torch.equal(per_row.tv[1], fused_score(*[x[1] for x in logits], targets[1], scale=2.0).tv)
    mixed = fused_score_mix(logits, [1.0, beta, -beta], targets, compared=1)
    assert torch.equal(mixed.logprobs, got.logprobs)
    assert torch.equal(mixed.tv, got.tv)
    assert torch.equal(
        fused_score_mix(logits, torch.tensor([1.0, 0.5, -0.5]), targets).lse[..., 3],
        fused_score(*logits, targets, beta=0.5).lse[..., 3],
    )


def test_conservative_scores_the_distribution_that_is_sampled():
    logits = rows("lm", 3, 6, 2100, torch.bfloat16)
    targets = some_targets(6, 2100)
    for options in (
        {"conservative_top_p": 0.9},
        {"conservative_top_p": torch.full((6,), 0.5), "scale": 1.5, "conservative_outside": "drop"},
    ):
        got = fused_score(*logits, targets, num_top=1, **options)
        assert_agrees(got, fused_score(*logits, targets, num_top=1, backend="reference", **options))
        scale = options.get("scale", 1.0)
        form = {k: v for k, v in options.items() if k != "scale"}
        again = fused_score_mix(logits, [scale, 1.0, -scale], targets, compared=1, **form)
        assert torch.equal(again.logprobs, got.logprobs)
        z = eft_ext.combine(logits, [scale, 1.0, -scale], **{k: v for k, v in options.items() if k != "scale"})
        want = z.double().log_softmax(-1).gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(got.logprobs[:, 3].double(), want, rtol=2e-6, atol=1e-6)


def test_bad_and_ignored_rows_leave_their_neighbours_alone():
    logits = rows("lm", 3, 8, 1500)
    clean = fused_score(*logits, some_targets(8, 1500), num_top=2, num_changed=2)
    targets = some_targets(8, 1500)
    logits[0][1, 700] = math.nan
    logits[1][2, 1499] = math.inf
    logits[2][3] = -math.inf
    targets[4], targets[5], targets[6] = -100, 1500, -1
    got = fused_score(*logits, targets, num_top=2, num_changed=2)
    assert got.status.tolist() == [0, 1, 1, 1, 2, 1, 1, 0]
    for name, field in got._asdict().items():
        if name == "status":
            continue
        for b, status in enumerate(got.status.tolist()):
            if status == 0:
                assert torch.equal(field[b], getattr(clean, name)[b]), name
            elif not field.is_floating_point():
                assert (field[b] == -1).all(), name
            else:
                assert field[b].isnan().all() if status == 1 else (field[b] == 0).all(), name
    assert_agrees(got, reference.score(logits, [1.0, 1.0, -1.0], targets, compared=1, num_top=2, num_changed=2))
    weights = torch.ones(8)
    weights[0] = math.nan
    assert fused_score(*rows("lm", 3, 8, 1500), some_targets(8, 1500), beta=weights).status.tolist() == [1] + [0] * 7
    assert fused_score(*logits, targets, ignore_index=-1).status.tolist()[4:7] == [1, 1, 2]


def test_an_excluded_token_spoils_nothing():
    """Large excludes what tuned has NaN for: neither the mixture nor tuned's own distribution sees it."""
    logits = rows("lm", 3, 1, 64)
    logits[0][0, 5] = -math.inf
    want = fused_score(*logits, torch.tensor([9]))
    spoilt = [x.clone() for x in logits]
    spoilt[1][0, 5] = math.nan
    got = fused_score(*spoilt, torch.tensor([9]))
    assert got.status.item() == 0
    assert torch.equal(got.logprobs[0, [0, 2, 3]], want.logprobs[0, [0, 2, 3]])
    spoilt[1][0, 5] = -math.inf
    assert torch.equal(got.logprobs[0, 1], fused_score(*spoilt, torch.tensor([9])).logprobs[0, 1])


def test_identities():
    """beta = 0 is large; large = base at beta 1 is tuned; a shift of one model's logits changes nothing but its lse."""
    large, tuned, base = rows("lm", 3, 6, 2000)
    targets = some_targets(6, 2000)
    off = fused_score(large, tuned, base, targets, beta=0.0)
    torch.testing.assert_close(off.logprobs[:, 3], off.logprobs[:, 0])
    same = fused_score(base, tuned, base, targets)
    assert (same.tv < 1e-6).all()
    assert (same.kl < 1e-6).all()
    plain = fused_score(large, tuned, base, targets)
    moved = fused_score(large, tuned + 8.0, base, targets)
    torch.testing.assert_close(moved.logprobs, plain.logprobs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moved.kl, plain.kl, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved.lse[:, 1], plain.lse[:, 1] + 8.0, rtol=0, atol=1e-5)
    details = eft_ext.fused_mix([large, tuned, base], [1.0, 1.0, -1.0], temperature=0, return_details=True)
    again = fused_score(large, tuned, base, details.tokens)
    assert torch.equal(again.argmax[:, 3], details.tokens)
    torch.testing.assert_close(again.logprobs[:, 3], details.raw_logprobs, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(again.entropy[:, 3], details.entropy, rtol=1e-5, atol=2e-6)
    assert (again.rank[:, 3] == 0).all()


def test_the_plain_backend_goes_by_pieces(monkeypatch):
    monkeypatch.setattr(reference_backend, "_SCORED_ELEMENTS", 3 * 400 * 2)
    logits, targets = rows("lm", 3, 7, 400), some_targets(7, 400)
    beta = torch.linspace(0, 2, 7)
    got = fused_score(*logits, targets, beta=beta, num_changed=2, backend="reference")
    want = reference.score(logits, [torch.ones(7), beta, -beta], targets, compared=1, num_changed=2)
    for name, field in got._asdict().items():
        torch.testing.assert_close(field, getattr(want, name).to(field.dtype))


def test_results_have_no_gradient():
    logits = [x.requires_grad_() for x in rows("lm", 3, 2, 100)]
    for name in ("auto", "reference"):
        got = fused_score(*logits, some_targets(2, 100), backend=name)
        assert not any(field.requires_grad for field in got)
