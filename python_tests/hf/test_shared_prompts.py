"""Rows with one prompt: it is read once, and every score is the plain loop's."""

import pytest
import torch

from eft_ext import EmulatedModel
from eft_ext.methods import UpScale
from python_tests.helpers.naive import padded

LONG, SHORT = [5, 9, 40, 41, 7, 30, 22, 8, 11, 12, 13, 14, 15, 16], [50, 51, 52, 53, 54, 55, 56, 57]
PROMPTS = [LONG, SHORT, LONG, LONG[:10], LONG, SHORT, LONG[:10], LONG]
RESPONSES = [[60], [61, 62, 63], [64, 65, 66, 67, 68], [60], [69], [70], [71, 72], [60]]


@torch.no_grad()
def plain(models, prompt, response, beta=lambda step: 1.0):
    """The mixture's log-probability of each token of a response, whole rows being read alone in float64 sums."""
    at = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
    large, tuned, base = (model(torch.tensor([prompt + response])).logits[0, at, :264].double() for model in models)
    betas = torch.tensor([beta(step) for step in range(len(response))])[:, None]
    logprobs = (large + betas * (tuned - base)).log_softmax(-1)
    return logprobs[range(len(response)), response], logprobs.argmax(-1)


def check(got, models, prompts=PROMPTS, responses=RESPONSES, **options):
    width = max(map(len, responses))
    assert got.ids.tolist() == [[-100] * (width - len(row)) + row for row in responses]
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        logprobs, best = plain(models, prompt, response, **options)
        torch.testing.assert_close(
            got.tokens.logprobs[row, -len(response) :, -1].double(), logprobs, rtol=1e-5, atol=5e-5
        )
        assert got.tokens.argmax[row, -len(response) :, -1].tolist() == best.tolist()
        assert (got.tokens.status[row, : -len(response)] == 2).all()


@pytest.mark.parametrize("positions", [None, 1, 3])
def test_every_family(trio, positions, shapes_read):
    with shapes_read(trio[0]) as shapes:
        got = EmulatedModel(*trio).score(PROMPTS, RESPONSES, positions=positions)
    check(got, trio)
    assert shapes[0] == (3, len(LONG)), "each prompt once"
    assert sum(columns for _, columns in shapes[1:]) == 4, "the responses without the last token"
    assert {rows for rows, _ in shapes[1:]} == {len(PROMPTS)}


def test_weights_of_rows_and_steps_and_candidates(llamas):
    model = EmulatedModel(*llamas)
    got = model.score(PROMPTS, RESPONSES, method=UpScale(lambda step: 0.3 * step), candidates=2)
    check(got, llamas, beta=lambda step: 0.3 * step)
    for row, response in enumerate(RESPONSES):
        ids, best = got.candidates.ids[row, -len(response) :], got.tokens.argmax[row, -len(response) :, -1]
        assert (ids == best[:, None]).any(dim=1).all()
    betas = [0.1 * row for row in range(len(PROMPTS))]
    each = model.score(PROMPTS, RESPONSES, beta=betas)
    for row, beta in enumerate(betas):
        want = plain(llamas, PROMPTS[row], RESPONSES[row], beta=lambda step, beta=beta: beta)[0]
        torch.testing.assert_close(each.logprobs[row, -1], want.sum(), rtol=1e-5, atol=5e-5)


def test_each_model_shares_its_own_prompts(llamas, shapes_read):
    tuned = [[80, 81, 82, 83], *[[90, 91, 92, 93, 94, 95, 96]] * 7]
    with shapes_read(llamas[1]) as shapes:
        got = EmulatedModel(*llamas).score(PROMPTS, RESPONSES, prompts={"tuned": tuned})
    assert shapes[0] == (2, 7)
    for row, (prompt, response) in enumerate(zip(tuned, RESPONSES, strict=True)):
        with torch.no_grad():
            logits = llamas[1](torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        want = logits.double().log_softmax(-1)[range(len(response)), response].sum()
        torch.testing.assert_close(got.logprobs[row, 1], want, rtol=1e-5, atol=5e-5)


def test_rows_that_share_little_are_read_whole(llamas, shapes_read):
    prompts = [LONG, SHORT, LONG[:3], SHORT]
    with shapes_read(llamas[0]) as shapes:
        got = EmulatedModel(*llamas).score(prompts, RESPONSES[:4])
    check(got, llamas, prompts, RESPONSES[:4])
    assert len(shapes) == 1


def test_a_table_of_positions_that_only_padding_would_overrun(build, shapes_read):
    """The longest prompt and the longest response are not one row's."""
    models = [build("gpt2", seed, 16, 264) for seed in range(3)]
    prompts, responses = [list(range(3, 113))] * 9 + [[5, 6]], [[7]] * 9 + [list(range(20, 60))]
    with shapes_read(models[0]) as shapes:
        got = EmulatedModel(*models).score(prompts, responses)
    check(got, models, prompts, responses)
    assert len(shapes) == 1


def test_a_bad_row_is_named_by_its_place_in_the_text(llamas, build):
    broken = build("llama", 5, 16, 264)
    with torch.no_grad():
        broken.model.embed_tokens.weight[54] = torch.nan  # of the short prompt
    with pytest.raises(RuntimeError, match=r"^row 1, token -3 from the end: the logits of tuned hold NaN"):
        EmulatedModel(llamas[0], broken, llamas[2]).score(PROMPTS, RESPONSES)


def test_masks_and_texts(llamas, tokenizer):
    ids, mask = padded(PROMPTS)
    check(EmulatedModel(*llamas).score(ids, RESPONSES, attention_mask=mask), llamas)
    model = EmulatedModel(*llamas, tokenizer)
    same, alone = model.score(["A question:"] * 3, [" yes", " no", " maybe"]), []
    for text in (" yes", " no", " maybe"):
        alone.append(model.score("A question:", text).logprobs[0])
    torch.testing.assert_close(same.logprobs, torch.stack(alone), rtol=1e-5, atol=5e-5)
