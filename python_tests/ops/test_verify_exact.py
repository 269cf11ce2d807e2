"""fused_verify is exact: its output distribution summed up from its integers, and acceptance rates against 1 - TV."""

import numpy as np
import pytest
import torch

from eft_ext.ops import fused_mix, fused_verify, reference
from eft_ext.ops.reference.verify import Filters, residual, row_distribution
from python_tests.helpers.drafts import EFT, blocks


def distribution_of(logits, weights, filters):
    mixture = {"weights": weights, "bias": None, "token_bitmask": None, "vocab_size": None, "conservative": None}
    return row_distribution(logits, filters, **mixture)


def as_drawn(p):
    """The share of each token in the walk of an ordinary draw, long double [V], up to 2^-64."""
    distance = (p.survivors.mass.row_n[:, None] - p.survivors.mass.tile_n).clamp(max=63)[0]
    probs = []
    for tile, d in enumerate(distance.tolist()):
        # Whole shares are drawn: what a tile's masses exceed its share by is cut from its last tokens.
        end = int(p.survivors.share[0, tile]) << int(d)
        running = p.survivors.weight[0, tile].cumsum(0).clamp(max=end).numpy().astype(np.longdouble)
        probs.append(np.diff(running, prepend=np.longdouble(0)) / np.longdouble(2) ** int(d))
    return np.concatenate(probs)[: len(p.w)] / np.longdouble(p.total)


@pytest.mark.parametrize("name", ["lm", "flat", "two_level", "wide", "cliffs", "masked"])
@pytest.mark.parametrize(
    ("filters", "own"),
    [
        (Filters(), Filters()),
        (Filters(0.8, 0, 0.9, 0.0), Filters(0.8, 0, 0.9, 0.0)),
        (Filters(1.0, 40, 1.0, 0.0), Filters(1.3, 0, 1.0, 0.02)),
    ],
)
def test_the_distribution_of_what_is_emitted(name, filters, own):
    """q as drawn, accepted or redrawn, sums to p as drawn: to 3V units of 2^-40 at the very worst."""
    vocab = 2100
    large, tuned, base = (x[:, 0] for x in blocks(name, 3, 1, 1, vocab))
    p, q = distribution_of([large, tuned, base], EFT, filters), distribution_of([tuned], [1.0], own)
    wp, wq = (x.w.numpy().astype(np.longdouble) for x in (p, q))
    proposed, wanted = as_drawn(q), as_drawn(p)
    assert abs(proposed.sum() - 1) < 1e-15
    with np.errstate(divide="ignore", invalid="ignore"):
        # the share of all bits with floor(bits a / 2^64) < b
        accepted = np.where(wq > 0, np.minimum(1, wp * q.total / (wq * p.total)), (wp > 0).astype(np.longdouble))
    rho = residual(p, q, 0).numpy().astype(np.longdouble)
    redrawn = rho / rho.sum() if rho.sum() else wanted
    emitted = proposed * accepted + (proposed * (1 - accepted)).sum() * redrawn
    distance = 0.5 * np.abs(emitted - wanted).sum()
    assert distance < 1e-9, distance
    oracle = reference.distribution([large, tuned, base], EFT, **filters._asdict())[0].numpy()
    assert 0.5 * np.abs(emitted - oracle).sum() < 2e-6


@pytest.mark.parametrize(
    ("name", "options", "own"),
    [
        ("lm", {}, {}),
        pytest.param("lm", {"top_p": 0.9, "temperature": 0.8}, {}, marks=pytest.mark.slow),
        pytest.param("flat", {}, {"draft_temperature": 0.5}, marks=pytest.mark.slow),
        pytest.param("two_level", {"top_p": 0.6}, {"draft_top_k": 30}, marks=pytest.mark.slow),
        pytest.param("bf16_ties", {"min_p": 0.02}, {"draft_temperature": 0.0}, marks=pytest.mark.slow),
    ],
)
def test_acceptance_is_one_minus_total_variation(name, options, own):
    """Over 10^6 drafts, and what follows a rejection has the residual's frequencies."""
    vocab, count, calls = 70, 50_000, 20
    logits = [x.expand(count, -1, -1) for x in blocks(name, 3, 1, 1, vocab, torch.bfloat16)]
    weights, seeds = [0.6, 0.8, -0.4], torch.arange(count)
    drafting = {**options, **{key.removeprefix("draft_"): value for key, value in own.items()}}
    p = reference.distribution([x[:1, 0] for x in logits], weights, **options)[0]
    q = reference.distribution([logits[1][:1, 0]], [1.0], **drafting)[0]
    accepted, counts = 0, np.zeros(vocab)
    for at in range(calls):
        drafts = fused_mix([logits[1][:, 0]], [1.0], seed=seeds, position=at, **drafting)[:, None]
        call = (drafts, logits[1][:, :1], logits, weights)
        found = fused_verify(*call, seed=seeds, position=at, **options, **own)
        accepted += int(found.num_accepted.sum())
        counts += np.bincount(found.tokens[:, 0].numpy(), minlength=vocab)
    n = count * calls
    rate = float(torch.minimum(p, q).sum())  # 1 - TV
    assert 0.1 < rate < 0.999
    assert abs(accepted - n * rate) < 4.5 * np.sqrt(n * rate * (1 - rate)), (accepted / n, rate)
    expected = p.numpy() * n
    assert counts[expected == 0].sum() == 0
    z = (counts - expected)[expected > 20] / np.sqrt(expected[expected > 20])
    assert (z**2).sum() < len(z) + 5 * np.sqrt(2 * len(z))
