"""A forked child, in which torch's pool of threads is gone: every operation ends, with what the parent has."""

import multiprocessing

import pytest
import torch

from eft_ext.methods import Contrast
from eft_ext.ops import combine, fused_mix, fused_score, fused_step, fused_verify
from python_tests.helpers.rows import models

VOCAB, DRAFTS, SECONDS = 128256, 2, 30
AT = {"temperature": 0.7, "seed": 3, "position": 1}
WEIGHTS = [1.0, 0.5, -0.5]


def verified(x, weights):
    rows = [y[:, None].expand(-1, DRAFTS + 1, -1) for y in x]
    drafts = torch.arange(len(x[0]))[:, None].expand(-1, DRAFTS)
    return fused_verify(drafts, rows[1][:, :DRAFTS], rows, weights, **AT)


OPERATIONS = {
    "step": lambda x: fused_step(*x, top_p=0.9, return_details=True, **AT),
    "conservative": lambda x: fused_step(*x, scale=1.0, conservative_top_p=0.9, **AT),
    "mix": lambda x: fused_mix(x, WEIGHTS, top_k=50, **AT),
    "combine": lambda x: combine(x, WEIGHTS),
    "score": lambda x: fused_score(*x, torch.arange(len(x[0]))),
    "verify": lambda x: verified(x, WEIGHTS),
    "contrast": lambda x: fused_mix(x[:2], Contrast(), **AT),
    "negated": lambda x: combine([y._neg_view() for y in x], WEIGHTS),
}


@pytest.fixture(scope="module")
def logits():
    """Logits of eight rows, after two threads have worked for torch and for us; the tests' own setting is one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    made = models("lm", 3, 8, VOCAB)
    torch.ones(2**20).exp().sum()
    fused_step(*made)
    yield made
    torch.set_num_threads(before)


def written(found):
    return [x.numpy().tobytes() for x in ((found,) if isinstance(found, torch.Tensor) else found)]


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("name", OPERATIONS)
def test_ends_with_what_the_parent_has(logits, name, rows):
    logits = [x[:rows] for x in logits]
    wanted = written(OPERATIONS[name](logits))
    ours, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)

    def work():
        found = written(OPERATIONS[name](logits))
        theirs.send((found, torch.get_num_threads()))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    theirs.close()  # so that a child that fails is an end of file
    try:
        assert ours.poll(SECONDS), "the child waits for threads that it does not have"
        assert ours.recv() == (wanted, 2), "the same results, and torch's setting as it was"
    finally:
        child.kill()
        child.join()
