"""Whole texts whose models begin them with BOS tokens of their own, or with none."""

import pytest
import torch
from tokenizers import processors

from eft_ext.hf import EmulatedModel
from python_tests.helpers.added_tokens import FIRST, trio

TEXTS = ["the ship", "a sail was set"]


def beginning(tokenizer, token):
    """The tokenizer, which puts the token before every text."""
    i = tokenizer.convert_tokens_to_ids(token)
    tokenizer.bos_token = token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", special_tokens=[(token, i)]
    )
    return tokenizer


@pytest.fixture
def model(build):
    """model(the models' BOS by name) -> the mixture"""

    def made(begun):
        each = trio()
        three = [build("llama", seed, 16, 264) for seed in range(3)]
        for one in three:
            one.generation_config.eos_token_id = FIRST
        return EmulatedModel(*three, {n: beginning(t, begun[n]) if n in begun else t for n, t in each.items()})

    return made


@pytest.mark.parametrize(
    ("begun", "first"),
    [
        ({"tuned": "<User>"}, 1),
        ({"large": "<|im_start|>", "base": "<|box|>"}, 1),
        ({"large": "<|box|>", "tuned": "<User>", "base": "<|im_start|>"}, 0),
    ],
    ids=["tuned", "the others", "all"],
)
def test_each_model_reads_its_own_bos(model, begun, first):
    """A token that one model cannot predict is no target; the rest are as a plain pass of each model has them."""
    mixture = model(begun)
    got = mixture.score(TEXTS)
    for row, text in enumerate(TEXTS):
        bare = trio()["large"](text).input_ids
        assert got.counts[row] == len(bare) - first
        assert got.ids[row].tolist()[-len(bare) + first :] == bare[first:]
        for name in ("large", "tuned", "base"):
            tokenizer = mixture.tokenizers[name]
            head = [tokenizer.convert_tokens_to_ids(begun[name])] if name in begun else []
            with torch.no_grad():
                logits = getattr(mixture, name)(torch.tensor([[*head, *bare]])).logits[0].double()
            each = logits[len(head) + first - 1 : -1].log_softmax(-1).gather(1, torch.tensor(bare[first:])[:, None])
            assert got.logprobs[row, got.names.index(name)].item() == pytest.approx(each.sum().item(), abs=1e-3)


def test_texts_that_differ_otherwise(model):
    mixture = model({"tuned": "<User>"})
    with pytest.raises(ValueError, match=r"^responses: expected some, since the models read different tokens before"):
        mixture.score(["ab", "b <think>"])
    with pytest.raises(ValueError, match=r"^responses: expected some, since the models read different tokens before"):
        mixture.score(["ab", "cd"], prompts={"base": "ab"})
    with pytest.raises(ValueError, match=r"^inputs: expected at least two tokens in row 1 "):
        mixture.score(["ab", "a"])
