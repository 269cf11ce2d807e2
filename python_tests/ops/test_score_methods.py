"""fused_score_mix and fused_verify with named methods: the same as the mixture's own logits, scored and verified."""

import re

import pytest
import torch

from eft_ext import Score, combine, fused_mix, fused_score_mix, fused_verify
from eft_ext import methods as m

V, B, T = 300, 3, 4
ROWS = torch.tensor([0.2, 0.9, 1.4])


def fading(step):
    return 1.0 / (1 + step)


METHODS = {
    "up-scale": (m.UpScale(0.6), 3),
    "up-scale rows": (m.UpScale(ROWS), 3),
    "up-scale changing": (m.UpScale(fading), 3),
    "down-scale": (m.DownScale(1.2), 3),
    "amplify": (m.Amplify(1.5), 3),
    "interpolate": (m.Interpolate({"a": 0.3, "b": 0.7}), 4),
    "interpolate changing": (m.Interpolate.between("a", "b", lambda step: [fading(step), 0.1 * step, 1.0]), 4),
    "conservative": (m.Conservative(0.8, set="large", outside="drop", method=m.Amplify(1.4)), 3),
    "conservative changing": (m.Conservative(lambda step: 0.5 + 0.05 * step), 3),
    "contrast": (m.Contrast(0.5, 0.1), 2),
    "contrast rows": (m.Contrast(ROWS, torch.tensor([0.01, 0.1, 0.5])), 2),
    "contrast changing": (m.Contrast(0.5, lambda step: 0.1 * fading(step)), 2),
    "realign": (m.Realign(1.5), 2),
    "guidance": (m.Guidance(ROWS), 2),
    "plain": (m.Plain(), 1),
    "weighted": (m.Weighted({"a": 1.0, "b": -0.4, "c": ROWS, "d": fading}), 4),
}


def logits_of(count, positions=T, dtype=torch.float32):
    """K models' logits [B, positions, V] that agree in part; sliced, so that rows are not adjacent."""
    make = torch.Generator().manual_seed(0)
    common = 2.5 * torch.randn(B, positions + 1, V, generator=make)
    return [
        (common + 0.8 * torch.randn(B, positions + 1, V, generator=make)).to(dtype)[:, :positions] for _ in range(count)
    ]


def mixed(method, logits, position=0):
    """z [B, positions, V], one position at a time, as a loop that generates forms it."""
    return torch.stack([combine([x[:, t] for x in logits], method, position=position + t) for t in range(T)], 1)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", METHODS)
def test_the_mixture_and_the_models_are_scored(name, backend):
    method, count = METHODS[name]
    logits = logits_of(count)
    z = mixed(method, logits)
    targets = z.argmax(-1)  # what no method excludes
    targets[1, 0] = -100
    compared = count - 1
    options = dict(compared=compared, num_top=3, num_changed=2, backend=backend)
    got = fused_score_mix(logits, method, targets, position=0 if method.is_scheduled else None, **options)
    same = fused_score_mix([logits[compared], z], [0.0, 1.0], targets, **{**options, "compared": 0})
    for field in ("tv", "kl", "up_ids", "down_ids", "up_log_ratios", "down_log_ratios", "status"):
        torch.testing.assert_close(getattr(got, field), getattr(same, field), rtol=2e-5, atol=1e-6, msg=field)
    alone = [fused_score_mix([x], [1.0], targets, num_top=3, backend=backend) for x in (*logits, z)]
    for k, one in enumerate(alone):
        for field in Score._fields[:8]:
            torch.testing.assert_close(getattr(got, field)[..., k], getattr(one, field)[..., 0], msg=f"{field} of {k}")
        assert torch.equal(got.top_ids[..., k, :], one.top_ids[..., 0, :])
    assert got.logprobs.shape == (B, T, count + 1)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", METHODS)
def test_drafts_are_verified_against_the_mixture(name, backend):
    method, count = METHODS[name]
    logits = logits_of(count)
    options = dict(temperature=0.9, top_p=0.95, seed=torch.tensor([3, 4, 5]))
    drafts = torch.stack([fused_mix([logits[-1][:, t]], [1.0], position=7 + t, **options) for t in range(T - 1)], 1)
    call = dict(**options, position=7, backend=backend)
    got = fused_verify(drafts, logits[-1][:, :-1], logits, method, **call)
    want = fused_verify(drafts, logits[-1][:, :-1], [mixed(method, logits, 7)], [1.0], **call)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    greedy = fused_verify(
        torch.zeros_like(drafts), None, logits, method, lengths=0, temperature=0.0, seed=1, position=0, backend=backend
    )
    first = fused_mix([x[:, 0] for x in logits], method, temperature=0.0, position=0, seed=1)
    assert torch.equal(greedy.tokens[:, 0], first)


def test_positions_of_their_own():
    """Positions of each row, and of each target; rows [B] as one column."""
    method, logits = m.UpScale(fading), logits_of(3)
    targets = torch.zeros(B, T, dtype=torch.int64)
    starts = torch.tensor([0, 5, 2])
    got = fused_score_mix(logits, method, targets, position=starts)
    again = fused_score_mix(logits, method, targets, position=starts[:, None] + torch.arange(T))
    assert torch.equal(got.lse, again.lse)
    for b, start in enumerate(starts.tolist()):
        one = fused_score_mix([x[b : b + 1] for x in logits], method, targets[b : b + 1], position=start)
        assert torch.equal(got.lse[b], one.lse[0])
        flat = fused_score_mix([x[b] for x in logits], method, targets[b], position=start + torch.arange(T))
        assert torch.equal(got.lse[b], flat.lse)
    drafts = torch.zeros(B, T - 1, dtype=torch.int64)
    greedy = dict(temperature=0.0, seed=0)
    rows = fused_verify(drafts, None, logits, method, position=starts, lengths=0, **greedy)
    for b, start in enumerate(starts.tolist()):
        want = fused_mix([x[b : b + 1, 0] for x in logits], method, position=start, **greedy)
        assert rows.tokens[b, 0] == want[0]


def test_half_precision_is_cut_exactly():
    """The plausibility threshold is the expert's own numbers' in any dtype."""
    logits = logits_of(2, dtype=torch.bfloat16)
    z = mixed(m.Contrast(0.5, 0.3), logits)
    targets = z.argmin(-1)
    got = fused_score_mix(logits, m.Contrast(0.5, 0.3), targets)
    assert (got.logprobs[..., -1] == -torch.inf).all()
    assert got.logprobs[..., 0].isfinite().all(), "what the method excludes, the expert does not"


class Narrow(m.MixingMethod):
    """Four models, the first of which loses a token: no place is left for it beside itself."""

    roles = ends = ("a", "b", "c", "d")

    def weights(self):
        return 1.0, 0.0, 0.0, 0.0

    def prepare(self, logits, vocab_size=None):
        return [logits[0].index_fill(1, torch.tensor([3]), -torch.inf), *logits[1:]]


WRONG = {
    "logits: expected 3 tensors for UpScale(beta=1) (large, tuned, base), got 2": (m.UpScale(), 2, {}),
    "conservative_top_p: expected none beside Amplify(scale=1)": (m.Amplify(), 3, {"conservative_top_p": 0.9}),
    "position: expected an integer, since beta is a function of it": (m.UpScale(fading), 3, {}),
    "beta of step 2: expected a number or 3, got shape [2]": (
        m.UpScale(lambda step: [1.0, 2.0] if step == 2 else 1.0),
        3,
        {"position": 0},
    ),
    "position: expected an integer or a tensor [3] or [3, 4], got shape [2]": (
        m.UpScale(fading),
        3,
        {"position": torch.tensor([1, 2])},
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_input_is_named(message):
    method, count, options = WRONG[message]
    logits = logits_of(count)
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        fused_score_mix(logits, method, torch.zeros(B, T, dtype=torch.int64), **options)
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        fused_verify(torch.zeros(B, T - 1, dtype=torch.int64), None, logits, method, temperature=0.0, **options)


def test_no_room_for_a_model_that_is_cut():
    with pytest.raises(ValueError, match="^logits: expected at most 3 where Narrow"):
        fused_score_mix(logits_of(4), Narrow(), torch.zeros(B, T, dtype=torch.int64))


def test_rows_of_another_length():
    with pytest.raises(ValueError, match=r"^beta: expected a scalar or a tensor \[3\]"):
        fused_score_mix(logits_of(3), m.UpScale([1.0, 2.0]), torch.zeros(B, T, dtype=torch.int64))
