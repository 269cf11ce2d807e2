"""Masks of any form: padding on either side, holes, other ones for single models. A masked token is no token."""

import pytest
import torch

from eft_ext import EFTLogitsProcessor, EmulatedModel
from python_tests.families.builders import build as build_family
from python_tests.helpers.slow_params import slowly_but
from python_tests.helpers.ways import NEW, WAYS, greedy

IDS = torch.tensor([[1, 5, 9, 33, 7, 12], [40, 41, 42, 43, 44, 45], [9, 8, 7, 6, 5, 4]])
MASKS = {
    "a hole": [[1, 1, 0, 1, 1, 1]],
    "padding on the right": [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]],
    "holes, padding on both sides": [[0, 1, 0, 0, 1, 0], [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 1, 1]],
}
WEIGHTS = (1.0, 1.0, -1.0)
# A processor is given what the loop's own model says after the last column, padding or not.
OURS = [way for way in WAYS if way != "EFTLogitsProcessor"]


def texts(ids, mask):
    return [row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True)]


@pytest.mark.parametrize("way", OURS)
@pytest.mark.parametrize("form", slowly_but(("holes, padding on both sides",), MASKS))
def test_masked_tokens_are_none(form, way, llamas, naive):
    mask = torch.tensor(MASKS[form])
    ids = IDS[: len(mask)]
    expected = [naive(llamas, WEIGHTS, [text] * 3, NEW) for text in texts(ids, mask)]
    assert [len(row) for row in expected] == [NEW] * len(mask), "none of these ends"
    assert greedy(way, llamas, ids, mask) == expected


@pytest.mark.parametrize("way", WAYS)
def test_a_hole_in_what_one_model_reads(way, llamas, naive):
    mask = torch.tensor([[1, 0, 1, 1, 0, 1]])
    own = {"input_ids": torch.tensor([[50, 51, 52, 53, 54, 55]]), "attention_mask": mask}
    (tuned,) = texts(own["input_ids"], mask)
    whole = IDS[0].tolist()
    expected = naive(llamas, WEIGHTS, [whole, tuned, whole], NEW)
    assert greedy(way, llamas, IDS[:1], prompts={"tuned": own}) == [expected]


def test_a_processor(llamas, naive):
    mask = torch.tensor(MASKS["a hole"])
    expected = [naive(llamas, WEIGHTS, [text] * 3, NEW) for text in texts(IDS[:1], mask)]
    assert greedy("EFTLogitsProcessor", llamas, IDS[:1], mask) == expected
    mask = torch.tensor(MASKS["padding on the right"])
    with pytest.raises(ValueError, match=r"^attention_mask: expected no row to end in padding"):
        greedy("EFTLogitsProcessor", llamas, IDS, mask)


@pytest.mark.parametrize("way", OURS)
def test_sliding_windows(way, build, naive):
    models = [build("gemma2", seed, 16, 264) for seed in (5, 6, 7)]
    mask = torch.tensor(MASKS["holes, padding on both sides"])
    expected = [naive(models, WEIGHTS, [text] * 3, NEW) for text in texts(IDS, mask)]
    assert greedy(way, models, IDS, mask) == expected


@torch.no_grad()
@pytest.mark.parametrize("form", MASKS)
def test_scores(form, llamas):
    mask = torch.tensor(MASKS[form])
    ids = IDS[: len(mask)]
    score = EmulatedModel(*llamas).score(ids, attention_mask=mask)
    after = EmulatedModel(*llamas).score(ids, [[60, 61, 62]] * len(ids), attention_mask=mask)
    for row, text in enumerate(texts(ids, mask)):
        for found, whole, scored in ((score, text, len(text) - 1), (after, [*text, 60, 61, 62], 3)):
            logits = [m(torch.tensor([whole])).logits[0, :-1, :264].double() for m in llamas]
            z = [*logits, logits[0] + logits[1] - logits[2]]
            targets = torch.tensor(whole[1:])[:, None]
            sums = [float(x.log_softmax(-1).gather(1, targets)[-scored:].sum()) for x in z]
            assert found.logprobs[row].tolist() == pytest.approx(sums, rel=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_of_padding_is_named(way, llamas):
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    with pytest.raises(ValueError, match=r"attention_mask: expected a token in every row, row 1 is all padding"):
        greedy(way, llamas, IDS[:2], mask)


def test_the_unconditional_model_reads_the_last_token_of_the_text(llamas):
    from eft_ext.methods import Guidance

    model = EmulatedModel(model=llamas[0], method=Guidance(1.5))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]])
    call = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": [999]}
    found = model.generate(IDS[:1], attention_mask=mask, **call)[:, 6:]
    text, alone = [1, 5, 9], [9]
    for token in found[0].tolist():
        with torch.no_grad():
            a, b = (llamas[0](torch.tensor([x])).logits[0, -1].double() for x in (text, alone))
        assert token == int((b + 1.5 * (a - b)).argmax())
        text.append(token)
        alone.append(token)


UNMASKED = torch.tensor([[0, 0, 5, 9, 33], [4, 6, 8, 10, 12]])


@pytest.mark.parametrize("way", WAYS)
def test_padding_without_a_mask(way, llamas, naive):
    """The pad_token_id says what is none, for every model's prompt, as in transformers."""
    expected = [naive(llamas, WEIGHTS, [text] * 3, NEW) for text in ([5, 9, 33], UNMASKED[1].tolist())]
    if way == "EFTLogitsProcessor":  # which is told so
        processor = EFTLogitsProcessor(*llamas[1:], pad_token_id=0)
        call = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": [999], "pad_token_id": 0}
        found = llamas[0].generate(UNMASKED, logits_processor=[processor], **call)[:, 5:].tolist()
        assert found == expected
        return
    assert greedy(way, llamas, UNMASKED) == expected
    others = [[7, 8], [9, 9]]
    each = zip(others, ([5, 9, 33], UNMASKED[1].tolist()), strict=True)
    expected = [naive(llamas, WEIGHTS, [text, tuned, text], NEW) for text, tuned in each]
    assert greedy(way, llamas, torch.tensor(others), prompts={"tuned": UNMASKED}) == expected


@torch.no_grad()
def test_scores_of_padding_without_a_mask(llamas, tokenizer):
    logits = [m(torch.tensor([[5, 9, 33]])).logits[0, :-1, :264].double() for m in llamas]
    z = (logits[0] + logits[1] - logits[2]).log_softmax(-1)
    expected = float(z[0, 9] + z[1, 33])
    for words in (None, tokenizer):
        score = EmulatedModel(*llamas, words).score(UNMASKED)
        assert float(score.logprobs[0, -1]) == pytest.approx(expected, rel=1e-5)
        assert score.counts.tolist() == [2, 4]


def test_a_mask_of_an_earlier_prompt(llamas, naive):
    processor = EFTLogitsProcessor(*llamas[1:], attention_mask=torch.tensor([[0, 0, 1, 1, 1]]))
    call = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": [999], "pad_token_id": 0}
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    llamas[0].generate(UNMASKED[:1], attention_mask=mask, logits_processor=[processor], **call)
    other = torch.tensor([[20, 21, 22, 23, 24, 25]])
    with pytest.raises(ValueError, match=r"^attention_mask: expected those of this prompt; for a new one call reset"):
        llamas[0].generate(other, logits_processor=[processor], **call)
    processor.reset()
    found = llamas[0].generate(other, logits_processor=[processor], **call)[0, 6:].tolist()
    assert found == naive(llamas, WEIGHTS, [other[0].tolist()] * 3, NEW)


def test_one_prompt_with_a_hole_is_no_padded_batch(naive):
    """To a model that reads padding as text."""
    models = [build_family("RecurrentGemma", seed) for seed in range(3)]
    for model in models:
        model.get_input_embeddings().weight.data[0] = 0.3  # padding, as training may leave it
    mask = torch.tensor([[0, 1, 0, 0, 1, 1]])
    (text,) = texts(IDS[:1], mask)
    expected = naive(models, WEIGHTS, [text] * 3, NEW)
    assert greedy("eager", models, IDS[:1], mask) == [expected]
    with pytest.raises(ValueError, match=r"^inputs: expected one prompt at a time"):
        greedy("eager", models, IDS[:2], torch.tensor([[0, 1, 0, 0, 1, 1], [1] * 6]))
