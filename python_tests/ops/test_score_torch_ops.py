"""Scoring under tracing: opcheck, one graph, fake tensors."""

import pytest
import torch

from eft_ext.ops import fused_score, fused_score_mix
from eft_ext.ops.backends.flat_params import flatten
from eft_ext.ops.check_params import given_weights, logits_names, mix_params
from python_tests.helpers.rows import models as rows
from python_tests.helpers.slow_params import slowly


def test_opcheck():
    logits = rows("lm", 3, 4, 300)
    weights = given_weights([1.0, torch.ones(4), -1.0], logits)
    mix = mix_params(logits_names(logits), logits, weights, None, None, None, None)
    targets = torch.tensor([1, -100, 299, 7])
    torch.library.opcheck(torch.ops.eft_ext.score.default, (*flatten(mix), targets, -100, 1, 3, 2, "auto"))


@pytest.mark.parametrize("backend", ["eager", "aot_eager", *slowly("inductor")])
def test_compiles_into_one_graph(backend):
    def perplexity(large, tuned, base, targets):
        found = fused_score(large * 1.0, tuned, base, targets[:, 1:], num_top=2)
        return found.logprobs.sum(dim=1).exp(), found.top_ids, found.reward

    logits = [x.view(2, 5, 300)[:, :-1] for x in rows("lm", 3, 10, 300)]
    targets = torch.arange(10).view(2, 5)
    compiled = torch.compile(perplexity, fullgraph=True, backend=backend)
    for got, want in zip(compiled(*logits, targets), perplexity(*logits, targets), strict=True):
        torch.testing.assert_close(got, want)


def test_fake_and_meta_tensors_have_the_right_shapes():
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(3, 7, 100, dtype=torch.bfloat16)
        found = fused_score_mix([x, x], [1.0, 1.0], torch.zeros(3, 7, dtype=torch.int64), num_top=5, num_changed=2)
        assert found.top_ids.shape == (3, 7, 3, 5)
        assert found.lse.dtype == torch.float64
    x = torch.empty(3, 50, device="meta")
    assert fused_score(x, x, x, torch.empty(3, dtype=torch.int64, device="meta")).tv.shape == (3,)
