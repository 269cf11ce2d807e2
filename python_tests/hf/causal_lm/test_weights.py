"""Weights of a call in transformers' loops: one for each prompt or returned sequence, and of any method."""

import pytest
import torch

from eft_ext import methods as m
from eft_ext.hf import EmulatedModel
from python_tests.helpers.mixtures import PlainMixture, weighted
from python_tests.helpers.naive import RAGGED, padded

NEW = 6


def prompts():
    ids, mask = padded(RAGGED)
    return dict(input_ids=ids, attention_mask=mask, max_new_tokens=NEW)


@pytest.fixture
def plain(llamas):
    return PlainMixture(llamas, weighted(1, 0.8, -0.8))


@pytest.fixture
def emulated(llamas):
    return EmulatedModel(*llamas, beta=0.8)


@pytest.mark.slow
def test_a_weight_for_each_row(emulated, llamas):
    betas = [0.0, 0.5, 1.0, 2.0]
    for more in (dict(num_beams=3), dict(num_beams=4, num_return_sequences=2)):
        got = emulated.generate(**prompts(), beta=betas, eos_token_id=[999], **more).view(4, -1, 7 + NEW)
        for row, beta in enumerate(betas):
            plain = PlainMixture(llamas, weighted(1, beta, -beta))
            alone = torch.tensor([RAGGED[row]])
            expected = plain.generate(input_ids=alone, max_new_tokens=NEW, use_cache=False, eos_token_id=[999], **more)
            assert torch.equal(got[row][:, 7:], expected[:, alone.shape[1] :])


@pytest.mark.parametrize(
    "more", [{"num_beams": 3}, {"output_hidden_states": True}, {"prompt_lookup_num_tokens": 2}], ids=str
)
@pytest.mark.parametrize("count", [1, 2, 6, 12])
def test_weights_that_do_not_fit_the_prompts(emulated, more, count):
    with pytest.raises(ValueError, match=rf"^beta: expected a number or 4 values, one per row, got shape \[{count}\]"):
        emulated.generate(**prompts(), beta=[1.0] * count, **more)


class Own(m.MixingMethod):
    """A method of the caller's."""

    roles = ("large", "tuned", "base")

    def weights(self):
        return 1.0, self.number("share"), -1.0


def test_methods_that_no_file_holds(llamas, plain):
    expected = plain.generate(**prompts(), num_beams=2, use_cache=False)
    rows = EmulatedModel(*llamas, beta=[0.8] * 4)
    assert torch.equal(rows.generate(**prompts(), num_beams=2), expected)
    changing = EmulatedModel(*llamas, beta=lambda step: 0.8)
    assert torch.equal(changing.generate(**prompts(), num_beams=2, beta=0.8), expected)
    with pytest.raises(ValueError, match=r"^method: expected fixed parameters beside num_beams=2"):
        changing.generate(**prompts(), num_beams=2)
    with pytest.raises(ValueError, match=r"^beta: expected a number or 2 values, one for each row"):
        rows.causal_lm()(torch.tensor([[5], [6]]))
    own = PlainMixture(llamas, weighted(1, 0.5, -1)).generate(**prompts(), num_beams=2, use_cache=False)
    assert torch.equal(EmulatedModel(*llamas, method=Own(share=0.5)).generate(**prompts(), num_beams=2), own)


def test_a_weight_for_each_returned_sequence(emulated):
    """Rows that are drawn have their own; beams have their prompt's."""
    options = dict(do_sample=True, output_hidden_states=True, return_dict_in_generate=True, output_logits=True)
    got = emulated.generate([[5, 6]], num_return_sequences=2, beta=[0.0, 1.0], max_new_tokens=1, **options)
    for row, beta in enumerate((0.0, 1.0)):
        alone = emulated.generate([[5, 6]], beta=beta, max_new_tokens=1, **options)
        torch.testing.assert_close(got.logits[0][row], alone.logits[0][0])
    with pytest.raises(ValueError, match=r"^beta: expected a number or 1 values, one per row, got shape \[2\]"):
        emulated.generate([[5, 6]], num_beams=2, num_return_sequences=2, beta=[0.0, 1.0])
