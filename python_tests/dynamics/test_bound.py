"""The lower bound of ‖K‖ against one SGD step of a plain loop, and K from Jacobians."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from eft_ext.dynamics import DPO, IPO, SFT, SPPO, Probe, ProbeSet, Recording, SLiC, Tracker, kernel_norms
from eft_ext.dynamics.forward import response_logits, trainable
from python_tests.dynamics.conftest import build

pytest.importorskip("pyarrow")
PROBES = ProbeSet((Probe("afc", {"chosen": "bdm", "rejected": "kk", "seen": "bdc"}),))
# Of the summed log-probs of chosen and rejected, s⁺ and s⁻ less those of the first record, and chosen's tokens.
PLAIN = {
    SFT("sum"): lambda c, r, s, t, n: -c,
    SFT(): lambda c, r, s, t, n: -c / n,
    DPO(0.5): lambda c, r, s, t, n: -logsigmoid(0.5 * (s - t)),
    IPO(0.1): lambda c, r, s, t, n: (s - t - 5) ** 2,
    SLiC(500.0): lambda c, r, s, t, n: torch.relu(500 - c + r),
    SPPO(1.0): lambda c, r, s, t, n: (s - 0.5) ** 2 + (t + 0.5) ** 2,
}


class Letters:
    """a is 0, b is 1, ..."""

    eos_token_id = pad_token_id = 0

    def __call__(self, texts, add_special_tokens=True):
        return SimpleNamespace(input_ids=[[ord(c) - ord("a") for c in text] for text in texts])


def look(model, one):
    """Logits [tokens, vocab] of one response, and log π of its tokens."""
    z = model(one.ids).logits[0, one.position - 1]
    return z, z.log_softmax(-1).gather(1, one.targets[:, None]).squeeze(1)


def sgd(model, tokenizer, probes, loss, path, lrs, norm=None):
    """Plain SGD on one example, every step recorded. Returns what `lbk` should be, and ‖K‖, each [steps]."""
    rows = dict(zip(probes.types, probes.encode(tokenizer).batches(1), strict=True))
    tracker = Tracker(probes, tokenizer, path)
    tracker.record(model, 0)
    reference, bounds, norms = None, [], []
    for step, lr in enumerate(lrs, 1):
        norms.append((norm or norm_of_k)(model, rows, pair=not isinstance(loss, SFT)))
        (z, c), (w, r) = (look(model, rows[name]) for name in ("chosen", "rejected"))
        z.retain_grad()
        w.retain_grad()
        n, c, r = len(c), c.sum(), r.sum()
        reference = reference or (c.detach(), r.detach())
        model.zero_grad()
        PLAIN[loss](c, r, c - reference[0], r - reference[1], n).backward()
        g = torch.cat([x.grad.flatten() for x in (z, w) if x.grad is not None]).norm()
        with torch.no_grad():
            seen, before = look(model, rows["seen"])
            a = (torch.eye(seen.shape[1]) - seen.softmax(-1)[:, None]).norm()
            for p in model.parameters():
                p -= lr * p.grad
            moved = look(model, rows["seen"])[1] - before
        bounds.append(float(moved.norm() / (lr * a * g)))
        tracker.record(model, step, lr)
    tracker.finish()
    return np.array(bounds), np.array(norms)


def norm_of_k(model, rows, pair):
    """‖K‖_F between the tokens of `seen` and those trained on, from the Jacobians themselves."""
    seen, *others = (jacobian(model, rows[name]) for name in ("seen", "chosen", *["rejected"] * pair))
    return float((seen @ torch.cat(others).T).norm())


def jacobian(model, one):
    """∂z/∂θ, [tokens·vocab, parameters]."""
    parts = torch.func.jacrev(lambda p: response_logits(model, one, p))(trainable(model))
    return torch.cat([j.flatten(2) for j in parts.values()], -1).flatten(0, 1)


def loosest_and_tightest(model, tokenizer, probes, path, norm):
    """lbk/‖K‖ over all losses, one step each, from the same model."""
    found = []
    before = {name: p.clone() for name, p in model.state_dict().items()}
    for i, loss in enumerate(PLAIN):
        model.load_state_dict(before)
        _, k = sgd(model, tokenizer, probes, loss, path / str(i), [1e-4], norm)
        found.append(float(Recording(path / str(i)).lbk("seen", loss=loss)[0, 0] / k[0]))
    return min(found), max(found)


@pytest.mark.parametrize("loss", PLAIN, ids=str)
def test_each_loss_against_a_plain_step(loss, tmp_path):
    expected, k = sgd(build("llama"), Letters(), PROBES, loss, tmp_path, [1e-4] * 2)
    bound = Recording(tmp_path).lbk("seen", loss=loss)
    assert bound.shape == (2, 1)
    np.testing.assert_allclose(bound[:, 0], expected, 1e-3)  # changes of log-probs that are recorded in fp32
    assert (bound[:, 0] < k).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_how_loose_it_is_on_random_models(family, tmp_path):
    """All losses say about the same of one K: between 1/5000 and 1/400 of ‖K‖, within a factor of 3."""
    for seed in range(3):
        low, high = loosest_and_tightest(build(family, seed), Letters(), PROBES, tmp_path / str(seed), norm_of_k)
        assert 1 / 5000 < low <= high < 1 / 400
        assert high < 3 * low


@pytest.mark.slow
def test_how_loose_it_is_on_the_embedded_model(small_base, tmp_path):
    """Between 2e-6 and 5e-6 of ‖K‖: of A, [vocab, vocab], a step shows one row."""
    texts = {"chosen": " Thank you for asking!", "rejected": " It is Anna.", "seen": " Thanks, no."}
    probes = ProbeSet((Probe("Question: Who?\nAnswer:", texts),))

    def norm(model, rows, pair):
        others = ("chosen", *["rejected"] * pair)
        draws = [torch.Generator().manual_seed(i) for i in range(2)]
        norms = [
            kernel_norms(model, rows["seen"], rows[n], samples=4, generator=g).norm
            for n, g in zip(others, draws, strict=False)
        ]
        return float(torch.cat(norms).norm())

    low, high = loosest_and_tightest(small_base[0].eval(), small_base[1], probes, tmp_path, norm)
    assert 2e-6 < low <= high < 5e-6


def recorded(path, lrs, per_token=True):
    """A model that changes by hand before each record but the first."""
    model = build("llama")
    tracker = Tracker(PROBES, Letters(), path, per_token=per_token)
    tracker.record(model, 0)
    for step, lr in enumerate(lrs, 1):
        with torch.no_grad():
            model.lm_head.weight *= 0.99
        tracker.record(model, step, lr)
    tracker.finish()
    return Recording(path)


def test_an_unknown_learning_rate_has_no_bound(tmp_path):
    """It counted as 1, which made the bound of a resumed run fall a thousandfold there."""
    bound = recorded(tmp_path, [1e-3, None, 0.0, 1e-3]).lbk("seen")[:, 0]
    assert np.isfinite(bound).tolist() == [True, False, False, True]
    assert 0.5 < bound[0] / bound[3] < 2


def test_no_learning_rate_at_all(tmp_path):
    with pytest.raises(ValueError, match="^lr: expected a recording with learning rates, got none; pass lr"):
        recorded(tmp_path, [None, None]).lbk("seen")


@pytest.mark.filterwarnings("error")
def test_nothing_pushed(tmp_path):
    recording = recorded(tmp_path, [1e-3])
    assert np.isnan(recording.lbk("seen", loss=SLiC(-50.0))).all()
    assert np.isfinite(recording.lbk("seen", loss=SLiC(50.0))).all()


@pytest.mark.filterwarnings("error")
def test_infinite_log_probs_have_no_bound(tmp_path):
    model = build("llama")
    tracker = Tracker(PROBES, Letters(), tmp_path)
    tracker.record(model, 0)
    model.lm_head.register_forward_hook(
        lambda head, inputs, output: output.fill_(-torch.inf).index_fill(-1, torch.tensor(1), 0)
    )
    tracker.record(model, 1, 1e-3)
    tracker.finish()
    recording = Recording(tmp_path)
    assert np.isinf(recording.curve("seen")[1]).all()
    assert np.isnan(recording.lbk("seen")).all()


def test_wrong_input(tmp_path):
    recording = recorded(tmp_path, [1e-3])
    with pytest.raises(ValueError, match="rejected: expected another type than 'chosen', which is preferred"):
        recording.lbk("seen", loss=DPO(), rejected="chosen")
    with pytest.raises(ValueError, match="observed, update: expected a probe with both 'seen' and 'x', got none"):
        recording.lbk("seen", "x")
    with pytest.raises(
        ValueError, match="update, rejected: expected a probe with all of 'seen', 'chosen' and 'x', got"
    ):
        recording.lbk("seen", loss=DPO(), rejected="x")
    with pytest.raises(ValueError, match="loss: expected SFT, DPO, IPO, SLiC or SPPO, got <function"):
        recording.lbk("seen", loss=lambda logits, update: logits.sum())
    with pytest.raises(TypeError, match="loss: expected one of .* got 'ipo'; TRL's 'ipo' averages"):
        recording.lbk("seen", loss="ipo")
