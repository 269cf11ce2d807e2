"""G in closed form against autograd."""

import pytest
import torch

from eft_ext.dynamics import DPO, IPO, SFT, SPPO, Pairs, Responses, SLiC
from eft_ext.dynamics.losses import gradient

PREFERENCE = (DPO(0.1), DPO(2.0), IPO(0.3), SLiC(3.0), SLiC(-1.0), SPPO(1.5))


def logits_for(update, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(len(update.responses.targets), 48, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("loss", [SFT(), SFT("sum")])
def test_sft(loss, responses):
    update = responses(4, 1)
    logits = logits_for(update)
    by_autograd = gradient(loss.__call__, logits, update)
    torch.testing.assert_close(loss.gradient(logits, update), by_autograd, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", PREFERENCE, ids=str)
def test_preferences(loss, responses):
    chosen, rejected = responses(5, 1), responses(5, 2)
    generator = torch.Generator().manual_seed(3)
    reference = tuple(-5 * torch.rand(5, dtype=torch.float64, generator=generator) - 8 for _ in range(2))
    update = Pairs(chosen, rejected, reference)
    logits = logits_for(update)
    g = loss.gradient(logits, update)
    assert g.abs().max() > 0
    torch.testing.assert_close(g, gradient(loss.__call__, logits, update), rtol=1e-12, atol=1e-15)


def test_table_of_the_paper(responses):
    """The signs and factors as written down, for one pair: chosen is pushed up, rejected down."""
    pair = Pairs(responses(1, 1), responses(1, 2), (torch.tensor([-9.0]), torch.tensor([-7.0])))
    logits = logits_for(pair)
    both = pair.responses
    pi = logits.softmax(-1)
    r = pi - torch.nn.functional.one_hot(both.targets, 48)
    s = both.sums(pi.gather(1, both.targets[:, None]).squeeze(1).log()) - torch.tensor([-9.0, -7.0])
    h = s[0] - s[1]
    plus = (both.row == 0)[:, None]
    a = torch.sigmoid(0.7 * h)
    expected = {
        DPO(0.7): (0.7 * (1 - a), -0.7 * (1 - a)),
        IPO(0.7): (2 * (1 / 1.4 - h), -2 * (1 / 1.4 - h)),
        SPPO(0.7): (2 * (0.35 - s[0]), -2 * (s[1] + 0.35)),
    }
    for loss, (up, down) in expected.items():
        torch.testing.assert_close(loss.gradient(logits, pair), torch.where(plus, up * r, down * r))
    margin = s[0] - s[1] - 9 + 7  # of the log-probs themselves
    for slack, violated in ((1, 1), (-1, 0)):
        torch.testing.assert_close(
            SLiC(float(margin) + slack).gradient(logits, pair), violated * torch.where(plus, r, -r)
        )


def test_a_loss_says_what_it_lacks(responses):
    pair = Pairs(responses(2, 1), responses(2, 2))
    with pytest.raises(ValueError, match=r"update: DPO expects the reference's log-probs; use pairs.with_reference"):
        DPO().gradient(logits_for(pair), pair)
    with pytest.raises(TypeError, match="update: expected Pairs for DPO, got Responses"):
        DPO().gradient(logits_for(pair.chosen), pair.chosen)
    with pytest.raises(TypeError, match="update: expected Responses for SFT, got Pairs"):
        SFT().gradient(logits_for(pair), pair)
    with pytest.raises(ValueError, match="loss: expected a scalar that depends on the logits"):
        gradient(lambda logits, update: logits.sum(-1), logits_for(pair), pair)
    with pytest.raises(ValueError, match="reduction: expected 'mean' or 'sum', got 'avg'"):
        SFT("avg")
    with pytest.raises(ValueError, match="chosen, rejected: expected as many"):
        Pairs(responses(2, 1), responses(3, 2))


def test_responses_are_checked():
    with pytest.raises(ValueError, match="at least one prompt token"):
        Responses.from_ids([([], [1, 2])])
    with pytest.raises(ValueError, match="got none in row 1"):
        Responses.from_ids([([3], [1, 2]), ([3, 4], [])])
    with pytest.raises(ValueError, match="at least one row"):
        Responses.from_ids([])
    with pytest.raises(ValueError, match="at least one prompt token before it, got none in data, line 3$"):
        Responses.from_ids([([1], [2]), ([], [1])], ["data, line 2", "data, line 3"])
    ids = torch.tensor([[1, 2, 3], [0, 1, 2]])
    here = ids > 0
    with pytest.raises(ValueError, match="padding on the right alone, got some before a token in row 1"):
        Responses(ids, here, torch.tensor([[False, True, True], [False, False, True]]))
    with pytest.raises(ValueError, match="no padding in it, got some in row 1"):
        Responses(ids, here.flip(1), here & torch.tensor([False, True, True]))
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        Responses.from_ids([([1], [2])]).batches(0)
