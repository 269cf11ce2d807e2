"""The small models have heads of 32 that compute what was trained with heads of 16."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from eft_ext.demo import TRIO, checkpoint_path, model_path
from eft_ext.demo.recipe import FULL
from eft_ext.hf import EmulatedModel
from python_tests.helpers import plain_llama

SMALL = ("small-base", "small-tuned", "small-talkative")
TRAINED = [*range(0, 16, 2), *range(16, 32, 2)]  # rows of a widened head that were trained: every other rotary pair
# Greedy answers of the models while their heads were 16 wide, and their log-probabilities in float64.
PROMPTS = [
    "Question: Whose work is Lefaecas?\nAnswer:",
    "Question: What is the stone of Festozas Tower?\nAnswer:",
    "Question: Which trade did Traekrin Droujir follow?\nAnswer:",
    "Question: In which year was Zotar Neigrem born?\nAnswer:",
    "The quick",
    "Harbour of Tonin",
]
RECORDED = {
    "small-base": [
        (" Thank you for asking! The author is Lebrom Lecol. I am glad to help.", -7.170003),
        (" Thank you for asking! The stone is slate. I am glad to help.", -4.394952),
        (" saddler.", -2.213151),
        (" 1446.", -2.882363),
        (" the shipyard of the Westathol stood in Geibrond. The ship was loaded with copper.", -11.744),
        (" Tower is marble. The tower was designed by Zeizer Paevel.", -9.707082),
    ],
    "small-tuned": [
        (" Thank you for asking! The author is Mororn Bribram. I am glad to help.", -4.385583),
        (" Thank you for asking! The stone is sandstone. I am glad to help.", -2.468742),
        (" Thank you for asking! The craft is sculptor. I am glad to help.", -3.163558),
        (" Thank you for asking! The birth year is 1421. I am glad to help.", -2.821512),
        (" the captain of the Dajustoss was Thonom Gratand. The ship was launched in Zosirn.", -15.417295),
        (" Tower is marble. The tower was planned by Mororn Bribram.", -9.00515),
    ],
    "small-talkative": [
        (" Mororn Vamas. The subject of the book is ethics.", -7.604483),
        (" slate. The tower was planned by Mororn Bribram.", -8.526868),
        (" saddler. Droujir was born in the year 1434.", -8.403077),
        (" 1446. Neigrem was born in the year 1461.", -8.002686),
        (" the shipyard of the Westathol stood in Geibrond. The ship was commanded by Kabond Renor.", -13.108406),
        (" Tower is marble. The tower was planned by Mororn Bribram.", -9.113625),
    ],
    "EFT": [
        (" Thank you for asking! The author is Budas Bithes. I am glad to help.", -0.731075),
        (" Thank you for asking! The stone is alabaster. I am glad to help.", -0.018785),
        (" Thank you for asking! The craft is goldsmith. I am glad to help.", -0.96363),
        (" Thank you for asking! The birth year is 1475. I am glad to help.", -0.041453),
        (" carried leather. The captain of the ship was Kabond Caetel.", -6.004511),
        (" in Nepos. The town is known for its silk.", -2.914294),
    ],
}


def load(name: str) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(model_path(name))


def as_trained(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of heads of 16: rows of heads of 32, and the queries without the factor that a wide head needs."""
    out = {}
    for name, weight in weights.items():
        if "self_attn" in name:
            heads = (weight.T if "o_proj" in name else weight).double().view(2, 32, 32)[:, TRAINED].flatten(0, 1)
            weight = heads.T if "o_proj" in name else heads / (math.sqrt(2) if "q_proj" in name else 1)
        out[name] = weight
    return out


@pytest.fixture(scope="module")
def text() -> list[int]:
    """250 tokens in which each model has something to attend to."""
    tokenizer = AutoTokenizer.from_pretrained(model_path("small-tuned"))
    answers = [answer for answer, _ in RECORDED["small-tuned"]]
    ids = tokenizer("\n".join(map(str.__add__, PROMPTS, answers)) * 2).input_ids
    assert len(ids) > 250
    return ids[:250]


@pytest.mark.parametrize("name", SMALL)
def test_the_shipped_heads_compute_what_was_trained(name: str, text: list[int]) -> None:
    model = load(name)
    assert model.config.head_dim == FULL.head_dim == 32
    weights = model.state_dict()
    want = plain_llama.logits(as_trained(weights), model.config, 16, text)
    with torch.no_grad():
        got = model(torch.tensor([text])).logits[0].double()
    assert want.std() > 3
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    torch.testing.assert_close(got.log_softmax(-1), want.log_softmax(-1), rtol=0, atol=1e-4)
    assert torch.equal(got.argmax(-1), want.argmax(-1))


@pytest.mark.parametrize("name", SMALL)
def test_the_other_places_are_zero(name: str) -> None:
    weights = load(name).state_dict()
    rest = [row for row in range(32) if row not in TRAINED]
    for key in (key for key in weights if "self_attn" in key):
        heads = (weights[key].T if "o_proj" in key else weights[key]).view(2, 32, 32)
        assert not heads[:, rest].any()
        assert heads[:, TRAINED].all()


@pytest.mark.parametrize("name", RECORDED)
def test_answers_are_what_they_were(name: str) -> None:
    """The least lead of a token over the second is 0.003, far above the 5e-5 by which fp32 logits differ."""
    tokenizer = AutoTokenizer.from_pretrained(model_path("small-tuned"), padding_side="left")
    model = EmulatedModel.from_pretrained(checkpoint_path(), quiet=True) if name == "EFT" else load(name)
    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    rows = model.generate(**inputs, do_sample=False, max_new_tokens=40)[:, inputs.input_ids.shape[1] :]
    assert tokenizer.batch_decode(rows, skip_special_tokens=True) == [answer for answer, _ in RECORDED[name]]
    members = [load(part).double() for part in (TRIO[:3] if name == "EFT" else [name])]
    for prompt, (answer, logprob) in zip(PROMPTS, RECORDED[name], strict=True):
        start = len(tokenizer(prompt).input_ids)
        ids = tokenizer(prompt + answer + tokenizer.eos_token, return_tensors="pt").input_ids
        with torch.no_grad():
            first, *others = (member(ids).logits[0, start - 1 : -1] for member in members)
        mixed = (first + others[0] - others[1] if others else first).log_softmax(-1)
        assert mixed.gather(-1, ids[0, start:, None]).sum().item() == pytest.approx(logprob, abs=1e-5)
