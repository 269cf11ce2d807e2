"""The diagnosis on runs whose answer is known, and the intervals it gives."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from eft_ext.dynamics import Probe, ProbeSet, Recording, Tracker, bootstrap, diagnose, squeeze_step

pytest.importorskip("pyarrow")


class Table(nn.Module):
    """The same logits everywhere."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, ids):
        return self.logits.expand(*ids.shape, -1)


class Letters:
    """a is 0, b is 1, ..."""

    eos_token_id = pad_token_id = 0

    def __call__(self, texts, add_special_tokens=True):
        return SimpleNamespace(input_ids=[[ord(c) - ord("a") for c in text] for text in texts])


def recorded(path, logits, after):
    """Two records; chosen is the token b, rejected the token e."""
    probes = ProbeSet(tuple(Probe(p, {"chosen": "bb", "rejected": "e"}) for p in ("a", "b", "c")))
    tracker = Tracker(probes, Letters(), path, end=False)
    model = Table(logits)
    tracker.record(model, 0)
    model.logits.data = after
    tracker.record(model, 1)
    tracker.finish()
    return Recording(path)


def test_an_off_policy_push_is_squeezing(tmp_path):
    p = torch.tensor([0.6, 0.2, 0.1, 0.09, 0.01])
    change = squeeze_step(p.log(), torch.tensor(4), 1.0)
    found = diagnose(recorded(tmp_path, p.log(), p.log() + change))
    assert found.squeezed
    assert (found.first, found.last) == (0, 1)
    np.testing.assert_allclose(found.chosen.mean, 2 * change[1], rtol=1e-5)
    np.testing.assert_allclose(found.rejected.mean, change[4], rtol=1e-5)
    np.testing.assert_allclose(found.argmax.mean, change[0], rtol=1e-4)
    moved = (p.log() + change).exp() - p
    mass = found.rejected_mass
    np.testing.assert_allclose(
        [mass.own.mean, mass.argmax.mean, mass.rest.mean], [moved[4], moved[0], moved[1:4].sum()], rtol=1e-4
    )
    assert "squeezing" in str(found)


def test_an_on_policy_push_is_not(tmp_path):
    p = torch.tensor([0.04, 0.2, 0.1, 0.06, 0.6])
    found = diagnose(recorded(tmp_path, p.log(), p.log() + squeeze_step(p.log(), torch.tensor(4), 0.2)))
    assert not found.squeezed
    assert found.chosen.sign > 0 > found.rejected.sign
    assert found.rejected_mass.argmax.mean == 0  # the rejected token is the argmax itself
    assert "no squeezing" in str(found)


# Rejected is the token e, the last one: first, last, what argmax and rest gained, and at which share of the tokens e
# was dethroned and enthroned.
MASSES = {
    "dethroned": ([0.1, 0.2, 0.1, 0.1, 0.5], [0.4, 0.25, 0.05, 0.05, 0.25], 0.0, 0.25, (1, 0)),
    "enthroned": ([0.4, 0.25, 0.05, 0.05, 0.25], [0.1, 0.2, 0.1, 0.1, 0.5], 0.0, -0.25, (0, 1)),
    "kept": ([0.1, 0.1, 0.1, 0.1, 0.6], [0.2, 0.1, 0.1, 0.15, 0.45], 0.0, 0.15, (0, 0)),
    "another argmax": ([0.5, 0.3, 0.1, 0.05, 0.05], [0.2, 0.6, 0.1, 0.08, 0.02], 0.1, -0.07, (0, 0)),
    "a tie at first": ([0.3, 0.2, 0.1, 0.1, 0.3], [0.5, 0.2, 0.05, 0.05, 0.2], 0.2, -0.1, (0, 0)),
    "a tie in the end": ([0.5, 0.2, 0.05, 0.05, 0.2], [0.3, 0.2, 0.1, 0.1, 0.3], -0.2, 0.1, (0, 0)),
}


@pytest.mark.parametrize(("before", "after", "argmax", "rest", "shares"), MASSES.values(), ids=MASSES)
def test_where_probability_went(before, after, argmax, rest, shares, tmp_path):
    """A dethroned token's successor gained what it did not have as a competitor, 0.4 where only 0.25 moved."""
    recording = recorded(tmp_path, torch.tensor(before).log(), torch.tensor(after).log())
    mass = diagnose(recording).rejected_mass
    own = after[4] - before[4]
    np.testing.assert_allclose([x.mean for x in (mass.own, mass.argmax, mass.rest)], [own, argmax, rest], atol=1e-6)
    assert (mass.dethroned, mass.enthroned) == shares
    np.testing.assert_allclose(mass.own.mean + mass.argmax.mean + mass.rest.mean, 0, atol=1e-9)


def test_a_dethroned_token_is_told(tmp_path):
    before, after, *_ = MASSES["dethroned"]
    text = str(diagnose(recorded(tmp_path, torch.tensor(before).log(), torch.tensor(after).log())))
    assert "no squeezing" in text
    assert "argmax +0 (+0 to +0), rest +0.25" in text
    assert "no longer the argmax at 100.0% of them, newly at 0.0%, which count as rest." in text


@pytest.mark.parametrize("last", [[torch.nan] * 5, [0.0, 0.0, 0.0, 0.0, -torch.inf]])
@pytest.mark.filterwarnings("error")
def test_a_run_that_diverged_is_neither(tmp_path, last):
    found = diagnose(recorded(tmp_path, torch.zeros(5), torch.tensor(last)))
    assert found.squeezed is None
    assert str(found) == "steps 0 to 1: training diverged, log π is not finite."
    told = np.isfinite([found.rejected_mass.dethroned, found.rejected_mass.enthroned])
    assert told.all() == np.isfinite(last[0])  # a token that is excluded has the probability 0, which is a number


def test_one_record_is_not_enough(tmp_path):
    recording = recorded(tmp_path, torch.zeros(5), torch.zeros(5))
    (tmp_path / "step-00000001.parquet").unlink()
    with pytest.raises(ValueError, match="at least two records, got 1"):
        diagnose(Recording(recording.path))


def test_what_is_compared_is_checked(tmp_path):
    recording = recorded(tmp_path, torch.zeros(5), torch.zeros(5))
    for argument in ("first", "last"):
        with pytest.raises(ValueError, match=f"^{argument}: expected a record from 0 to 1, got 9$"):
            diagnose(recording, **{argument: 9})
    with pytest.raises(ValueError, match="^rejected: expected another type than 'chosen', which is chosen$"):
        diagnose(recording, rejected="chosen")


def test_bootstrap_covers_the_mean():
    """Over 300 samples of 40 normals the 95 % interval holds the true mean 0.3 in 90 to 99 % of cases."""
    rng = np.random.default_rng(0)
    samples = rng.normal(0.3, 1.0, (300, 40))
    intervals = [bootstrap(s, draws=400) for s in samples]
    covered = np.mean([i.low < 0.3 < i.high for i in intervals])
    assert 0.90 <= covered <= 0.99
    # Values of one seed that move together make the interval wider when whole seeds are drawn.
    grouped = rng.normal(0, 1, (6, 1)) + rng.normal(0, 0.1, (6, 40))
    whole, flat = bootstrap(grouped), bootstrap(grouped.ravel())
    assert whole.high - whole.low > 2 * (flat.high - flat.low)
    assert bootstrap(np.ones(5)).sign == 1
