"""Generation and scores with tokens that the models do not share: each way against a plain loop with the formula."""

import pytest
import torch

from eft_ext import methods as m
from eft_ext.hf import EFTLogitsProcessor, EmulatedModel, custom_generate
from eft_ext.ops.special_tokens import SpecialTokens
from python_tests.helpers.naive import NEW, RAGGED, VOCAB, logits, naive, named, padded

SPECIAL = SpecialTokens(own=tuple(range(180, 220)), never=tuple(range(220, 250)))
FORMS = {
    "up-scale": (m.UpScale(0.6), (1.0, 0.6, -0.6)),
    "amplify": (m.Amplify(1.4), (1.4, 1.0, -1.4)),
    "changing": (m.UpScale(lambda step: 0.6 if step < 6 else 0.0), None),
}


def mixed(x, weights):
    """The formula of numerics.md §15 in float64, [vocab]."""
    z = sum(w * one for w, one in zip(weights, x, strict=True))
    ordinary = torch.ones(len(z), dtype=torch.bool)
    ordinary[[*SPECIAL.own, *SPECIAL.never]] = False
    own = x[1] + z[ordinary].max() - x[1][ordinary].max()
    special = torch.full_like(z, -torch.inf)
    if weights[1] > 0:
        special[list(SPECIAL.own)] = own[list(SPECIAL.own)]
    return torch.where(ordinary, z, special)


def weights_at(name, step):
    fixed = FORMS[name][1]
    return fixed if fixed is not None else ((1.0, 0.6, -0.6) if step < 6 else (1.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def expected(models):
    return {
        name: [naive(models[:3], lambda step, x: mixed(x, weights_at(name, step)), [row] * 3) for row in RAGGED]  # noqa: B023
        for name in FORMS
    }


@pytest.mark.parametrize("name", FORMS)
def test_every_entry_gives_the_plain_loop(models, expected, name):
    method = FORMS[name][0].with_special_tokens(SPECIAL)
    chosen = named(method, (0, 1, 2), models)
    ids, mask = padded(RAGGED)
    options = dict(attention_mask=mask, max_new_tokens=NEW, eos_token_id=[999])
    model = EmulatedModel(method=method, **chosen)
    for tier in ("eager", "static", "async"):
        got = model.generate(ids, tier=tier, **options)
        assert got[:, 7:].tolist() == expected[name], tier
    drafted = model.generate(ids, speculate=3, **options)
    assert drafted[:, 7:].tolist() == expected[name]
    assert model.generate_batch(RAGGED, batch_size=2, max_new_tokens=NEW, eos_token_id=[999]) == expected[name]
    others = {key: value for key, value in chosen.items() if key != "large"}
    stock = custom_generate(method=method, **others)
    assert torch.equal(models[0].generate(ids, custom_generate=stock, **options), got)
    processor = EFTLogitsProcessor(method=method, attention_mask=mask, **others)
    theirs = models[0].generate(ids, logits_processor=[processor], suppress_tokens=[*range(VOCAB, 272)], **options)
    assert torch.equal(theirs, got)
    if not method.is_scheduled:
        assert torch.equal(model.causal_lm().generate(ids, **options), got)


def test_own_tokens_occur_and_never_tokens_do_not(expected):
    tokens = {token for row in expected["up-scale"] for token in row}
    assert tokens & {*SPECIAL.own}
    assert tokens - {*SPECIAL.own}
    assert not tokens & {*SPECIAL.never}


def test_a_parameter_that_is_set_counts_with_special_tokens_too(models, expected):
    method = m.UpScale(0.1)
    model = EmulatedModel(*models[:3], method=method.with_special_tokens(SPECIAL))
    method.set(beta=0.6)
    assert model.method.beta == pytest.approx(0.6)
    got = model.generate([RAGGED[1]], max_new_tokens=NEW, eos_token_id=[999])
    assert got[0, 7:].tolist() == expected["up-scale"][1]


@pytest.mark.parametrize("weights", [{"beta": 0.6}, {"scale": 1.4}], ids=str)
def test_weights_of_a_call_keep_the_special_tokens(models, weights):
    plain = m.UpScale().with_special_tokens(SPECIAL)
    asked = m.UpScale(0.6) if "beta" in weights else m.Amplify(1.4)
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    model = EmulatedModel(*models[:3], method=plain)
    want = model.generate([RAGGED[1]], method=asked.with_special_tokens(SPECIAL), **options)
    assert torch.equal(model.generate([RAGGED[1]], **weights, **options), want)
    stock = custom_generate(models[1], models[2], method=plain)
    ids = torch.tensor([RAGGED[1]])
    assert torch.equal(models[0].generate(ids, custom_generate=stock, **weights, **options), want)


def test_sampled_tokens_are_the_same_from_every_tier(models):
    model = EmulatedModel(*models[:3], method=m.UpScale(0.6).with_special_tokens(SPECIAL))
    options = dict(max_new_tokens=NEW, eos_token_id=[999], do_sample=True, top_p=0.95, seed=3)
    eager, other = (model.generate([RAGGED[1]], tier=tier, **options) for tier in ("eager", "async"))
    assert torch.equal(eager, other)
    assert not {*eager[0, 7:].tolist()} & {*SPECIAL.never}


def test_scores_are_the_plain_loops(models):
    method = m.UpScale(0.6).with_special_tokens(SPECIAL)
    text = [5, 190, 11, 181, 40, 219, 12]
    got = EmulatedModel(*models[:3], method=method).score([text])
    each = [x[:, :VOCAB] for x in logits(models[:3], text)]
    z = torch.stack([mixed([x[t] for x in each], (1.0, 0.6, -0.6)) for t in range(len(text) - 1)])
    want = z.log_softmax(dim=-1)[torch.arange(len(text) - 1), torch.tensor(text[1:])]
    torch.testing.assert_close(got.tokens.logprobs[0, -len(want) :, -1].double(), want, rtol=0, atol=2e-5)


def test_gradients_are_those_of_the_formula(models):
    from eft_ext.hf.causal_lm.mixed_logits import mixed_logits

    torch.manual_seed(0)
    given = [torch.randn(1, 4, VOCAB, requires_grad=True) for _ in range(3)]
    grad = torch.randn(1, 4, VOCAB)
    method = m.UpScale(0.6).with_special_tokens(SPECIAL)
    got = torch.autograd.grad(mixed_logits(method, given, VOCAB), given, grad)
    twins = [x.detach().double().requires_grad_() for x in given]
    z = torch.stack([mixed([x[0, t] for x in twins], (1.0, 0.6, -0.6)) for t in range(4)])[None]
    kept = torch.where(z > -torch.inf, z, 0.0)
    want = torch.autograd.grad(kept, twins, torch.where(z > -torch.inf, grad.double(), 0.0))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["driver", "custom_generate"])
def test_an_own_id_ends_a_text_only_if_it_does_so_for_its_owner(models, expected, monkeypatch, way):
    text = expected["up-scale"][1]
    end = next(token for token in text[:-1] if token in SPECIAL.own)
    method = m.UpScale(0.6).with_special_tokens(SPECIAL)
    call = {"max_new_tokens": NEW, "pad_token_id": 0}
    for owner, left in ((0, text), (1, text[: text.index(end) + 1])):
        for place, model in enumerate(models[:3]):
            monkeypatch.setattr(model.generation_config, "eos_token_id", end if place == owner else None)
        if way == "driver":
            got = EmulatedModel(*models[:3], method=method).generate([RAGGED[1]], **call)
        else:
            loop = custom_generate(*models[1:3], method=method)
            got = models[0].generate(torch.tensor([RAGGED[1]]), custom_generate=loop, **call)
        assert got[0, 7:].tolist() == left
