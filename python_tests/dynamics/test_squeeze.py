"""The one-step oracle of squeezing, and the data of its mitigation."""

import pytest
import torch

from eft_ext.dynamics import extend_for_sft, squeeze_step


@pytest.mark.parametrize("e", [1e-6, 0.3, 5.0, 200.0])
def test_against_the_step_itself(e):
    z = 3 * torch.randn(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([3, 29, 0, 7])
    one_hot = torch.nn.functional.one_hot(y, 30)
    after = z + e * (z.softmax(-1) - one_hot)
    expected = after.log_softmax(-1) - z.log_softmax(-1)
    torch.testing.assert_close(squeeze_step(z, y, e), expected, rtol=1e-9, atol=1e-13)
    strengths = torch.tensor([e, 0.0, e, 2 * e], dtype=torch.float64)
    rows = squeeze_step(z, y, strengths)
    torch.testing.assert_close(rows[0], expected[0], rtol=1e-9, atol=1e-13)
    assert rows[1].abs().max() < 1e-14


def test_the_formula_of_the_paper():
    p = torch.tensor([0.6, 0.3, 0.09, 0.01], dtype=torch.float64)
    e, y = 0.5, 3
    push = p - torch.nn.functional.one_hot(torch.tensor(y), 4)
    tau = (p * (e * push).exp()).sum().log() / e
    torch.testing.assert_close(squeeze_step(p.log(), torch.tensor(y), e), e * (push - tau))


def test_the_argmax_gains_and_the_improbable_lose():
    """Pushing down an improbable token, everything but the largest falls; pushing down a probable one, all others
    rise."""
    p = torch.tensor([0.6, 0.2, 0.1, 0.09, 0.01], dtype=torch.float64)
    unlikely = squeeze_step(p.log(), torch.tensor(4), 1.0)
    assert unlikely[0] > 0
    assert (unlikely[1:] < 0).all()
    likely = squeeze_step(p.log(), torch.tensor(0), 1.0)
    assert likely[0] < 0
    assert (likely[1:] > 0).all()
    torch.testing.assert_close((p.log() + unlikely).exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    with pytest.raises(ValueError, match="strength: expected at least 0, got -1"):
        squeeze_step(p.log(), torch.tensor(0), -1.0)


def test_extend_for_sft():
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c", "score": 1}]
    assert extend_for_sft(rows) == [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "c"}]


def test_extend_for_sft_of_conversations():
    user = {"role": "user", "content": "hi"}
    good, bad = ({"role": "assistant", "content": x} for x in ("yes", "no"))
    expected = [{"prompt": [user], "completion": [good]}, {"prompt": [user], "completion": [bad]}]
    assert extend_for_sft([{"prompt": [user], "chosen": [good], "rejected": [bad]}]) == expected
    assert extend_for_sft([{"chosen": [user, good], "rejected": [user, bad]}]) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "row 1: expected the key 'rejected', got prompt, chosen"),
        ({"prompt": "a", "chosen": "b", "rejected": 3}, "row 1, key 'rejected': expected text, got int"),
        ({"prompt": ["a"], "chosen": "b", "rejected": "c"}, "row 1, key 'prompt': expected text, got list"),
        ({"chosen": "b", "rejected": "c"}, "row 1: expected the key 'prompt', or conversations that open alike"),
    ],
)
def test_preferences_are_checked(row, message):
    with pytest.raises(ValueError, match=message):
        extend_for_sft([{"prompt": "a", "chosen": "b", "rejected": "c"}, row])
