"""Masks of any form: padding on either side, holes, other ones for single models. A masked token is no token."""

import pytest
import torch

from eft_ext import EmulatedModel
from python_tests.hf.ways import NEW, WAYS, greedy
from python_tests.slow import slowly_but

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
