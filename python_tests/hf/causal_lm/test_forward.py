"""The forward pass of EmulatedForCausalLM against formulas over what the models give by themselves."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache, StaticCache

from eft_ext import methods as m
from eft_ext.hf import EmulatedCache, EmulatedForCausalLM, EmulatedModel
from python_tests.helpers.mixtures import MIXTURES, conservative, contrast, weighted
from python_tests.helpers.naive import RAGGED, VOCAB, named, padded


def each_alone(models, rows=RAGGED, vocab=VOCAB):
    """For each row: the models' logits [length, vocab] in float64, each row read by itself."""
    with torch.no_grad():
        return [[x(torch.tensor([row])).logits[0, :, :vocab].double() for x in models] for row in rows]


def close(got, expected):
    got, expected = got.double(), expected.double()
    assert torch.equal(got.isinf(), expected.isinf())
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def whole(model, **options):
    ids, mask = padded(RAGGED)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, position_ids=positions, **options)


def check_rows(logits, expected):
    """The tokens of each row of a batch that is padded on the left."""
    for row, z in zip(logits, expected, strict=True):
        close(row[len(row) - len(z) :], z)


@pytest.fixture
def causal(model):
    return model.causal_lm()


@pytest.mark.parametrize("name", MIXTURES)
def test_every_method(models, name):
    method, places, z_of = MIXTURES[name]
    chosen = named(method, places, models)
    causal = EmulatedModel(method=method, **chosen).causal_lm()
    out = whole(causal)
    assert out.logits.dtype == torch.float32
    assert out.logits.shape[-1] == causal.config.vocab_size == min(x.config.vocab_size for x in chosen.values())
    check_rows(out.logits[..., :VOCAB], [z_of(x) for x in each_alone(chosen.values())])


def test_every_family(trio):
    out = whole(EmulatedModel(*trio).causal_lm(), beta=0.7)
    check_rows(out.logits, [x[0] + 0.7 * (x[1] - x[2]) for x in each_alone(trio)])


def test_weights_of_a_call(causal, llamas):
    x, betas = each_alone(llamas), [0.0, 0.5, 1.0, 2.0]
    for given in (betas, torch.tensor(betas), torch.tensor(betas, dtype=torch.float64)):
        check_rows(whole(causal, beta=given).logits, [v[0] + b * (v[1] - v[2]) for v, b in zip(x, betas, strict=True)])
    check_rows(whole(causal, beta=0.25).logits, [weighted(1, 0.25, -0.25)(v) for v in x])
    scales, shares = [1.0, 1.2, 0.4, 0.0], [0.5, 0.9, 1.0, 0.0]
    check_rows(whole(causal, scale=scales).logits, [weighted(s, 1, -s)(v) for v, s in zip(x, scales, strict=True)])
    got = whole(causal, scale=scales, conservative_top_p=shares).logits
    expected = [conservative(v, s, p) for v, s, p in zip(x, scales, shares, strict=True)]
    check_rows(got, expected)
    got = whole(causal, method=m.Conservative(shares, outside="drop")).logits
    expected = [conservative(v, 1.0, p, outside="drop") for v, p in zip(x, shares, strict=True)]
    check_rows(got, expected)
    for count in (1, 2, 3, 8):
        with pytest.raises(
            ValueError, match=rf"^beta: expected a number or 4 values, one for each row, got .*\[{count}\]"
        ):
            whole(causal, beta=[1.0] * count)


def test_a_plausibility_for_each_row(models):
    shares = [0.0, 0.01, 0.3, 1.0]
    causal = EmulatedModel(expert=models[0], amateur=models[1], method=m.Contrast()).causal_lm()
    expected = [contrast(v, 0.5, p) for v, p in zip(each_alone(models[:2]), shares, strict=True)]
    check_rows(whole(causal, method=m.Contrast(0.5, shares)).logits, expected)


def test_positions_that_are_kept(causal):
    every = whole(causal).logits
    for keep in (1, 3):
        assert torch.equal(whole(causal, logits_to_keep=keep).logits, every[:, -keep:])
    kept = torch.tensor([2, 5])
    assert torch.equal(whole(causal, logits_to_keep=kept).logits, every[:, kept])


def test_loss(causal):
    ids, mask = padded(RAGGED)
    labels = ids.masked_fill(mask == 0, -100)
    out = whole(causal, labels=labels)
    shifted = labels[:, 1:].flatten()
    flat = out.logits[:, :-1].flatten(0, 1)
    torch.testing.assert_close(out.loss, F.cross_entropy(flat, shifted))
    counted = whole(causal, labels=labels, num_items_in_batch=torch.tensor(50)).loss
    torch.testing.assert_close(counted, F.cross_entropy(flat, shifted, reduction="sum") / 50)
    loss, logits = causal(ids, mask, return_dict=False, labels=labels)
    assert (loss.shape, logits.shape) == ((), (4, 7, VOCAB))


@pytest.mark.parametrize("static", [False, True], ids=["grows", "static"])
def test_token_by_token(trio, static):
    """A cache that grows and one with room, both read in parts, equal one pass over everything."""
    causal = EmulatedModel(*trio).causal_lm()
    ids, mask = padded(RAGGED)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = None
    if static:
        cache = EmulatedCache({m.name: StaticCache(m.model.config, max_cache_len=12) for m in causal.models.members})
    parts, expected = [], whole(causal).logits
    for first, last in ((0, 3), (3, 4), (4, 5), (5, 7)):
        with torch.no_grad():
            out = causal(
                ids[:, first:last],
                attention_mask=mask[:, :last],
                position_ids=positions[:, first:last],
                past_key_values=cache,
                use_cache=True,
            )
        cache = out.past_key_values
        parts.append(out.logits)
    assert isinstance(cache, EmulatedCache)
    assert cache.get_seq_length() == 7
    for row, (got, z) in enumerate(zip(torch.cat(parts, 1), expected, strict=True)):
        close(got[7 - len(RAGGED[row]) :], z[7 - len(RAGGED[row]) :])


def test_bfloat16(llamas):
    small = [copy.deepcopy(x).bfloat16() for x in llamas]
    out = whole(EmulatedModel(*small).causal_lm(), beta=0.5)
    assert out.logits.dtype == torch.float32
    ids, mask = padded(RAGGED)
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        x = [y(ids, attention_mask=mask, position_ids=positions).logits[..., :VOCAB].double() for y in small]
    close(out.logits[3, 2:], (x[0] + 0.5 * (x[1] - x[2]))[3, 2:])


def test_outputs_of_one_model(llamas, causal):
    ids = torch.tensor([[5, 6, 7]])
    for name, model in zip(("large", "tuned", "base"), llamas, strict=True):
        got = causal(ids, output_hidden_states=True, outputs_of=name)
        own = model(ids, output_hidden_states=True)
        assert len(got.hidden_states) == len(own.hidden_states) == 3
        assert all(torch.equal(a, b) for a, b in zip(got.hidden_states, own.hidden_states, strict=True))
        assert got.attentions is None
    assert torch.equal(
        causal(ids, output_hidden_states=True).hidden_states[-1],
        llamas[0](ids, output_hidden_states=True).hidden_states[-1],
    )
    eager = EmulatedModel(*map(copy.deepcopy, llamas)).causal_lm()
    eager.set_attn_implementation({"tuned": "eager"})
    got = eager(ids, output_attentions=True, outputs_of="tuned").attentions
    assert [x.shape for x in got] == [(1, 4, 3, 3)] * 2
    assert eager.large.config._attn_implementation == "sdpa"


WRONG = {
    "input_ids": ({}, r"^input_ids: expected token ids \[rows, length\], got None"),
    "inputs_embeds": (
        {"inputs_embeds": torch.zeros(1, 3, 32)},
        r"^inputs_embeds: expected nothing, since the models share",
    ),
    "token_type_ids": ({"token_type_ids": torch.zeros(1, 3).long()}, r"^token_type_ids: expected nothing"),
    "outputs_of": ({"outputs_of": "big"}, r"^outputs_of: expected one of large, tuned, base, got 'big'"),
    "beta of the step": ({"beta": lambda step: 1.0}, r"^method: expected fixed parameters in a forward pass"),
    "two methods": ({"beta": 1.0, "method": m.UpScale()}, r"^beta: expected nothing beside method"),
    "another method": ({"method": m.Contrast()}, r"^method: expected one of large, tuned, base, the models"),
    "beta": ({"beta": float("nan")}, r"^beta: expected a finite number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs(causal, name):
    given, message = WRONG[name]
    if name not in ("input_ids", "inputs_embeds"):
        given = {"input_ids": torch.tensor([[5, 6, 7]]), **given}
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        causal(**given)
    assert "\n" not in str(raised.value)


def test_a_foreign_cache(causal, llamas):
    ids = torch.tensor([[5, 6, 7]])
    filled = llamas[0](ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"^past_key_values: expected an EmulatedCache, got DynamicCache"):
        causal(ids, past_key_values=filled)
    with pytest.raises(ValueError, match=r"^past_key_values: expected an EmulatedCache, got tuple"):
        causal(ids, past_key_values=())
    empty = causal(ids, past_key_values=DynamicCache())
    assert isinstance(empty.past_key_values, EmulatedCache)
    other = EmulatedModel(expert=llamas[0], amateur=llamas[2], method=m.Contrast()).causal_lm()
    with pytest.raises(
        ValueError, match=r"^past_key_values: expected caches of large, tuned, base, got .*expert=.*, amateur="
    ):
        causal(ids, past_key_values=other(ids, use_cache=True).past_key_values)


def test_the_class_is_one_of_transformers(causal):
    from transformers import GenerationMixin, PreTrainedModel

    assert isinstance(causal, PreTrainedModel)
    assert isinstance(causal, GenerationMixin)
    assert isinstance(causal, EmulatedForCausalLM)
