"""EFTLogitsProcessor in loops that it does not own."""

import pytest
import torch
from transformers import LogitsProcessorList, TopKLogitsWarper

from eft_ext.hf import EFTLogitsProcessor, EmulatedModel


@pytest.fixture
def processor(llamas):
    return EFTLogitsProcessor(llamas[1], llamas[2], beta=0.7)


@torch.no_grad()
def mixed(llamas, ids, beta=0.7):
    z = [m(ids).logits[:, -1, :264] for m in llamas]
    return z[0] + beta * (z[1] - z[2])


@torch.no_grad()
def step(processor, llamas, ids):
    return processor(ids, llamas[0](ids).logits[:, -1])


def test_caches_continue_and_start_over(processor, llamas, shapes_read):
    """One more token, several more, a rollback, another batch: read from scratch only where it must be."""
    a = torch.tensor([[5, 6, 7], [8, 9, 10]])
    longer = torch.cat([a, torch.tensor([[11], [12]])], 1)
    several = torch.cat([longer, torch.tensor([[13, 14], [15, 16]])], 1)
    turned = several.flip(0)
    for ids, read in (
        (a, [3]),
        (longer, [1]),
        (several, [1, 1]),
        (longer, [4]),
        (turned, [6]),
        (a[:1], [3]),
        (a[:1], [3]),
    ):
        with torch.no_grad():
            scores = llamas[0](ids).logits[:, -1]
        with shapes_read(llamas[1]) as tuned, shapes_read(llamas[2]) as base:
            got = processor(ids, scores)
        assert tuned == base == [(len(ids), length) for length in read]
        assert got.shape == (len(ids), 272)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got[:, :264], mixed(llamas, ids), rtol=1e-4, atol=1e-4)
        assert (got[:, 264:] == -torch.inf).all()


def test_in_a_loop_people_already_have(processor, llamas):
    large, *_ = llamas
    ids = torch.tensor([[5, 6, 7]])
    chain = LogitsProcessorList([processor, TopKLogitsWarper(1)])
    with torch.no_grad():
        for _ in range(6):
            scores = chain(ids, large(ids).logits[:, -1])
            ids = torch.cat([ids, scores.softmax(-1).multinomial(1)], 1)
    assert torch.equal(ids, EmulatedModel(*llamas, beta=0.7).generate(ids[:, :3], max_new_tokens=6))


def test_padding_by_its_token(llamas, ragged):
    large, tuned, base = llamas
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=9)
    processor = EFTLogitsProcessor(tuned, base, pad_token_id=0)
    expected = EmulatedModel(*llamas).generate(ids, **options)
    for _ in range(2):  # used again for the same prompt
        assert torch.equal(large.generate(ids, logits_processor=[processor], **options), expected)


def test_reset_takes_the_next_mask(llamas, ragged):
    large, tuned, base = llamas
    ids, mask = ragged
    processor = EFTLogitsProcessor(tuned, base, attention_mask=mask[:2])
    large.generate(ids[:2], attention_mask=mask[:2], max_new_tokens=3, logits_processor=[processor])
    processor.reset(mask)
    options = dict(attention_mask=mask, max_new_tokens=9)
    got = large.generate(ids, logits_processor=[processor], **options)
    assert torch.equal(got, EmulatedModel(*llamas).generate(ids, **options))


def test_a_mask_stands_for_every_sequence_of_its_row(llamas, ragged):
    _, tuned, base = llamas
    ids, mask = ragged
    options = dict(attention_mask=mask[:3], max_new_tokens=6, do_sample=True, top_k=0, num_return_sequences=2)
    both = []
    for given in (mask[:3], mask[:3].repeat_interleave(2, 0)):
        torch.manual_seed(1)
        processor = EFTLogitsProcessor(tuned, base, attention_mask=given)
        both.append(llamas[0].generate(ids[:3], logits_processor=[processor], **options))
    assert torch.equal(*both)
    assert both[0].shape[0] == 6


def test_an_error_leaves_no_half_step(processor, llamas):
    ids = torch.tensor([[5, 6, 7]])
    step(processor, llamas, ids)
    hook = llamas[2].register_forward_pre_hook(lambda *a: 1 / 0)
    longer = torch.cat([ids, ids[:, :1]], 1)
    with pytest.raises(ZeroDivisionError):
        step(processor, llamas, longer)
    hook.remove()
    torch.testing.assert_close(step(processor, llamas, longer)[:, :264], mixed(llamas, longer), rtol=1e-4, atol=1e-4)


def test_beams_with_renormalised_scores(llamas):
    _, tuned, base = llamas
    ids = torch.tensor([[5, 6, 7]])
    options = dict(max_new_tokens=6, num_beams=3, renormalize_logits=True)
    got = base.generate(ids, logits_processor=[EFTLogitsProcessor(tuned, base)], **options)
    assert torch.equal(got, tuned.generate(ids, **options))
