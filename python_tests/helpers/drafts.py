"""Drafts, and the logits that they are verified by."""

import torch

from eft_ext.ops import fused_mix
from eft_ext.ops.check_params import given_weights, mix_params, sampling_params
from eft_ext.ops.params import DraftParams, Integer, Real
from python_tests.helpers.rows import models

EFT = [1.0, 1.0, -1.0]


def blocks(name, count, batch, k, vocab, dtype=torch.float32, seed=0):
    """`count` models' logits [batch, k + 1, vocab]; model 1's first k positions are the draft's."""
    return [x.unflatten(0, (batch, k + 1)) for x in models(name, count, batch * (k + 1), vocab, dtype, seed)]


def propose(draft_logits, seeds, position=0, **options):
    """Drafts [batch, k] drawn as numerics.md §8 says: by ordinary steps of the draft model alone."""
    steps = range(draft_logits.shape[1])
    drawn = [fused_mix([draft_logits[:, i]], [1.0], seed=seeds, position=position + i, **options) for i in steps]
    return torch.stack(drawn, dim=1)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def arguments(token_bitmask=None):
    logits = blocks("lm", 3, 3, 2, 200)
    views = [x[:, 0] for x in logits]
    mix = mix_params(["a", "b", "c"], views, given_weights(EFT, views), None, None, None, token_bitmask)
    draw = sampling_params(mix, 0.9, 0, torch.full((3,), 0.9), 0.0, 5, 1, None)
    lengths = Integer(0, torch.tensor([2, 1, 0]))
    drafts = torch.ones(3, 2, dtype=torch.int64)
    drafted = DraftParams(drafts, logits[1][:, :2], lengths, Real(1.0), Integer(0), *draw[2:4])
    return mix._replace(logits=tuple(logits)), draw, drafted
