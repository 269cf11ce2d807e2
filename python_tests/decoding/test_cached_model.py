"""Both kinds of cached models keep the one interface: the same calls give the logits of a pass over everything."""

import pytest
import torch

from eft_ext.decoding import StaticCacheModel
from eft_ext.hf.members import Member
from eft_ext.hf.runners.dynamic_cache_model import DynamicCacheModel

CLOSE = dict(rtol=2e-5, atol=2e-5)
KINDS = {
    "static": StaticCacheModel,
    "transformers' own": lambda model: DynamicCacheModel(Member("large", model)),
    "none": lambda model: DynamicCacheModel(Member("large", model), use_cache=False),
}
TOKENS = torch.randint(3, 260, (4, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@torch.no_grad()
def test_rows_that_read_and_leave(kind, family, model_of, ragged, truth):
    model, expected = kind(model_of(family)), truth(model_of(family))
    torch.testing.assert_close(model.prefill(*ragged), expected.last()[:, 0], **CLOSE)
    assert model.prompt_lengths == list(map(len, expected.rows))
    for order, tokens in (([0, 1, 2, 3], TOKENS[:, :1]), ([3, 1], TOKENS[:2, 1:4]), ([1, 0], TOKENS[:2, 4:6])):
        model.select_rows(order)
        expected.rows = [expected.rows[row] for row in order]
        expected.append(tokens)
        torch.testing.assert_close(model.forward(tokens), expected.last(tokens.shape[1]), **CLOSE)
        assert model.lengths.tolist() == list(map(len, expected.rows))
        assert model.longest >= max(map(len, expected.rows))


def test_the_engines_calls(kind, model_of, ragged, truth):
    model, expected = kind(model_of("llama")), truth(model_of("llama"))
    model.prefill(*ragged)
    with torch.inference_mode():
        for tokens in TOKENS[:, :3].split(1, dim=1):
            model.reserve(1)
            model.set_max_length(model.longest + 1)
            logits = model.run(tokens)
            if model.stored_lengths is not None:
                model.stored_lengths.add_(1)
            expected.append(tokens)
            torch.testing.assert_close(logits, expected.last(), **CLOSE)
    assert model.longest == 7 + 3
    assert model.room > 0


@torch.no_grad()
def test_a_batch_that_is_replaced_whole(kind, model_of, ragged, truth):
    model, expected = kind(model_of("llama")), truth(model_of("llama"))
    model.prefill(*ragged)
    model.forward(TOKENS[:, :2])
    order = torch.tensor([2, 0, 3, 1])
    logits = model.admit(order, *(x[order] for x in ragged))
    torch.testing.assert_close(logits, expected.last()[order, 0], **CLOSE)
    expected.append(TOKENS)
    torch.testing.assert_close(model.forward(TOKENS), expected.last(9), **CLOSE)


def test_transformers_caches_lose_no_single_row_and_no_tokens(model_of, ragged):
    model = DynamicCacheModel(Member("tuned", model_of("llama")))
    model.prefill(*ragged)
    assert not model.can_crop
    with pytest.raises(NotImplementedError, match=r"^tuned: .* static caches"):
        model.crop(torch.tensor([1, 1, 1, 1]))
    with pytest.raises(NotImplementedError, match=r"^tuned: .* static caches"):
        model.admit(torch.tensor([2]), ragged[0][:1])


def test_the_end_of_a_table(kind, model_of):
    model = kind(model_of("gpt2"))
    model.prefill(torch.full((1, 500), 5))
    assert model.limit == 512
    with pytest.raises(ValueError, match=r": the sequence needs 513 positions, but this model has a table of 512"):
        model.forward(torch.full((1, 13), 5))


@torch.no_grad()
def test_texts_in_pieces(family, model_of, ragged):
    """A short row's first piece is all padding."""
    model, whole = KINDS["transformers' own"](model_of(family)), KINDS["none"](model_of(family))
    ids, mask = ragged
    found = [
        model.read(ids[:, :3], mask[:, :3], keep=2),
        *map(model.forward, ids[:, 3:].split(2, 1), mask[:, 3:].split(2, 1)),
    ]
    expected = whole.read(ids, mask, keep=6)
    real = mask[:, 1:] == 1
    torch.testing.assert_close(torch.cat(found, dim=1)[real], expected[real], **CLOSE)
