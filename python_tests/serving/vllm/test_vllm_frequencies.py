"""Frequencies of one next token under both runners, against the distribution in float64."""

import pytest
import torch
from scipy.stats import chisquare

from eft_ext.demo import checkpoint_path
from python_tests.helpers.served_trio import ask, mixture, prompts, sampling
from python_tests.helpers.vllm_interpreted import V2

pytestmark = pytest.mark.slow
DRAWS = 500 if V2 else 2000  # the interpreter takes its time
BETA = 0.5
KINDS = {
    "temperature": {"temperature": 0.6},
    "temperature and top-p": {"temperature": 1.2, "top_p": 0.8},
    "top-k": {"temperature": 1.3, "top_k": 12},
    "min-p": {"temperature": 1.0, "min_p": 0.03},
    "min-p, then top-p": {"temperature": 1.0, "min_p": 0.02, "top_p": 0.8},
}


@pytest.fixture(scope="module")
def llm(start):
    return start(checkpoint_path(), max_num_seqs=128)


def distribution(z, *, temperature, top_k=0, top_p=1.0, min_p=0.0):
    """Probabilities [V] of the next token, in vLLM's order: min-p, top-k, top-p."""
    p = (z / temperature).softmax(-1)
    p = p * (p >= min_p * p.max())
    p = p * (p >= p.topk(top_k).values[-1]) if top_k else p
    order = p.argsort(descending=True, stable=True)
    before = (p / p.sum())[order].cumsum(-1) - (p / p.sum())[order]
    kept = torch.zeros_like(p)
    kept[order[before < top_p]] = 1.0
    return p * kept / (p * kept).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_frequencies(llm, kind):
    ids = prompts()[5]
    p = distribution(mixture(ids, BETA)[-1], **KINDS[kind])
    outputs = ask(llm, [(ids, sampling(BETA, n=DRAWS, max_tokens=1, **KINDS[kind]))])[0].outputs
    counts = torch.bincount(torch.tensor([each.token_ids[0] for each in outputs]), minlength=len(p)).double()
    assert counts.sum() == DRAWS
    assert counts[p == 0].sum() == 0
    often = p * DRAWS >= 8
    assert often.sum() > 2
    pooled = [torch.cat([x[often], x[~often].sum()[None]]) for x in (counts, p * DRAWS)]
    keep = pooled[1] > 0
    assert chisquare(pooled[0][keep], pooled[1][keep]).pvalue > 1e-3
