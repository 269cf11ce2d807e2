"""Processors that follow a grammar token by token, as those of xgrammar and outlines do."""

import pytest
import torch
from transformers import LogitsProcessor

FREE = {"eos_token_id": [999], "max_new_tokens": 6, "pad_token_id": 0}


class Counting(LogitsProcessor):
    """Lets the n-th call draw token 10 + n only."""

    calls = 0

    def __call__(self, ids, scores):
        self.calls += 1
        return scores.masked_fill(torch.arange(scores.shape[1]) != 10 + self.calls, -torch.inf)


def test_each_prompt_of_a_batch_begins_its_own(model):
    got = model.generate_batch(["abc", "de", "f"], logits_processor=[Counting()], batch_size=2, **FREE)
    assert got == [[11, 12, 13, 14, 15, 16]] * 3


@pytest.mark.parametrize("package", ["outlines.backends.outlines_core", "xgrammar.contrib.hf"])
def test_no_drafts(model, package):
    """A matcher does not take back a token that it has accepted."""
    theirs = type("Theirs", (Counting,), {"__module__": package})
    own = type("Own", (theirs,), {})
    for kind in (theirs, own):
        with pytest.warns(UserWarning, match=f"speculate: decoding without drafts, since {kind.__name__} keeps"):
            ids = model.generate("abc", logits_processor=[kind()], speculate=4, **FREE)
        assert ids[0, -6:].tolist() == [11, 12, 13, 14, 15, 16]
