"""Gradients of the models' weights through the mixture, against plain autograd of its formula."""

import copy
import warnings

import peft
import pytest
import torch
import torch.nn.functional as F

from eft_ext import methods as m
from eft_ext.hf import EmulatedModel
from python_tests.helpers.mixtures import MIXTURES, conservative, contrast
from python_tests.helpers.naive import RAGGED, VOCAB, named, padded
from python_tests.helpers.slow_params import slowly_but


def batch():
    ids, mask = padded(RAGGED)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def loss_of(logits):
    """A loss that no softmax makes simpler: excluded tokens count for nothing."""
    torch.manual_seed(5)
    weight = torch.randn(logits.shape)
    return (logits.masked_fill(logits == -torch.inf, 0.0) * weight)[:, -1].sum() + logits[3, 3:].log_softmax(-1)[
        :, 7:9
    ].sum()


def gradients(models):
    found = [{name: p.grad for name, p in model.named_parameters()} for model in models]
    for model in models:
        model.zero_grad()
    return found


def by_autograd(models, z_of):
    loss_of(z_of([model(**batch()).logits[..., :VOCAB] for model in models])).backward()
    return gradients(models)


def through(causal, models, **options):
    loss_of(causal(**batch(), **options).logits[..., :VOCAB]).backward()
    return gradients(models)


def check(got, expected):
    for own, theirs in zip(got, expected, strict=True):
        assert own.keys() == theirs.keys()
        for name in own:
            assert (own[name] is None) == (theirs[name] is None), name
            if own[name] is not None:
                torch.testing.assert_close(own[name], theirs[name], atol=2e-4, rtol=2e-4, msg=name)


@pytest.fixture
def copies(models):
    return [copy.deepcopy(model) for model in models]


@pytest.mark.parametrize(
    "name", slowly_but(("conservative", "conservative, drop", "contrast", "interpolate"), MIXTURES)
)
def test_every_method(copies, name):
    method, places, z_of = MIXTURES[name]
    chosen = named(method, places, copies)
    causal = EmulatedModel(method=method, **chosen).causal_lm()
    check(through(causal, chosen.values()), by_autograd(chosen.values(), z_of))


def column(values):
    return torch.tensor(values)[:, None, None]


BY_ROW = {
    "beta": (m.UpScale([0.0, 0.5, 1.0, 2.0]), 3, lambda x: x[0] + column([0.0, 0.5, 1.0, 2.0]) * (x[1] - x[2])),
    "conservative": (
        m.Conservative([0.0, 0.9, 1.0, 0.7], set="base", method=m.Amplify([1.0, 0.5, 2.0, 1.5])),
        3,
        lambda x: conservative(x, column([1.0, 0.5, 2.0, 1.5]), column([0.0, 0.9, 1.0, 0.7]), of=2),
    ),
    "contrast": (
        m.Contrast([0.1, 0.5, 1.0, 2.0], [0.0, 0.01, 0.1, 0.3]),
        2,
        lambda x: contrast(x, column([0.1, 0.5, 1.0, 2.0]), column([0.0, 0.01, 0.1, 0.3])),
    ),
}


@pytest.mark.parametrize("name", BY_ROW)
def test_parameters_for_each_row(copies, name):
    method, count, z_of = BY_ROW[name]
    chosen = named(method, range(count), copies)
    alone = method.mapped(lambda name, value: 0.5)
    causal = EmulatedModel(method=alone, **chosen).causal_lm()
    check(through(causal, chosen.values(), method=method), by_autograd(chosen.values(), z_of))


def test_frozen_models_have_none(copies):
    large, tuned, base = copies[:3]
    large.requires_grad_(False)
    base.requires_grad_(False)
    causal = EmulatedModel(large, tuned, base, beta=0.7).causal_lm()
    got = through(causal, copies[:3])
    expected = by_autograd(copies[:3], lambda x: x[0] + 0.7 * (x[1] - x[2]))
    assert {grad for grad in (*got[0].values(), *got[2].values())} == {None}
    check(got, expected)
    with torch.no_grad():
        assert not causal(**batch()).logits.requires_grad
    tuned.requires_grad_(False)
    assert not causal(**batch()).logits.requires_grad


def test_a_graph_that_is_kept(copies):
    causal = EmulatedModel(*copies[:3]).causal_lm()
    loss = loss_of(causal(**batch()).logits)
    loss.backward(retain_graph=True)
    loss.backward()
    twice = gradients(copies[:3])
    once = by_autograd(copies[:3], lambda x: x[0] + x[1] - x[2])
    check(twice, [{name: None if g is None else 2 * g for name, g in own.items()} for own in once])


def test_under_autocast(copies):
    causal = EmulatedModel(*copies[:3], beta=0.5).causal_lm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = causal(**batch(), labels=batch()["input_ids"])
        each = [model(**batch()).logits[..., :VOCAB] for model in copies[:3]]
        z = each[0].float() + 0.5 * (each[1].float() - each[2].float())
    assert out.logits.dtype == torch.float32
    out.loss.backward()
    got = gradients(copies[:3])
    F.cross_entropy(z[:, :-1].flatten(0, 1), batch()["input_ids"][:, 1:].flatten()).backward()
    check(got, gradients(copies[:3]))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing(copies):
    causal = EmulatedModel(*copies[:3], beta=0.5).causal_lm().train()
    expected = through(causal, copies[:3])
    causal.gradient_checkpointing_enable()
    runs = []
    hook = causal.tuned.model.layers[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    check(through(causal, copies[:3]), expected)
    assert len(runs) == 2, "read again for the backward pass"
    hook.remove()
    causal.gradient_checkpointing_disable()
    assert not any(getattr(module, "gradient_checkpointing", False) for module in causal.modules())
    check(through(causal, copies[:3]), expected)


@pytest.fixture
def adapted(copies):
    torch.manual_seed(9)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return copies[0], peft.get_peft_model(copies[2], config).eval()


def test_an_adapter_over_the_shared_base(adapted, models):
    """The adapter is in tuned's part alone, and learns from that alone."""
    large, tuned = adapted
    large.requires_grad_(False)
    own_base = copy.deepcopy(models[2]).requires_grad_(False)
    causal = EmulatedModel(large, tuned).causal_lm()
    assert [name for name, _ in causal.named_children()] == ["large", "tuned"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = through(causal, [tuned])
    expected = by_autograd([large, tuned, own_base], lambda x: x[0] + x[1] - x[2])[1:2]
    check(got, expected)
    assert {name for name, grad in got[0].items() if grad is not None} == {
        name for name, p in tuned.named_parameters() if "lora_" in name
    }


def test_a_base_that_learns_under_its_adapter(adapted, models):
    large, tuned = adapted
    for parameter in tuned.parameters():
        parameter.requires_grad_(True)
    causal = EmulatedModel(large, tuned).causal_lm()
    got = through(causal, [large, tuned])
    one, other = copy.deepcopy(tuned), copy.deepcopy(models[2])
    in_large, in_tuned, in_base = by_autograd([large, one, other], lambda x: x[0] + x[1] - x[2])
    for name, grad in in_tuned.items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if plain in in_base and in_base[plain] is not None:
            in_tuned[name] = grad + in_base[plain]
    check(got, [in_large, in_tuned])


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("enable", ["whole", "model", "adapter"])
def test_a_shared_adapter_with_gradient_checkpointing(adapted, enable):
    """A pass that is run again in the backward pass would find the adapter on where it was off."""
    large, tuned = adapted
    causal = EmulatedModel(large, tuned).causal_lm().train()
    {"whole": causal, "model": tuned.get_base_model(), "adapter": tuned}[enable].gradient_checkpointing_enable()
    with pytest.raises(ValueError, match=r"^base: expected no gradient checkpointing, since it shares its weights"):
        causal(**batch())
    with torch.no_grad():
        causal(**batch())


def test_training_moves_what_is_trained(copies):
    large, tuned, base = copies[:3]
    causal = EmulatedModel(large, tuned, base).causal_lm().train()
    before = {name: value.clone() for name, value in causal.state_dict().items()}
    causal.large.requires_grad_(False)
    causal.base.requires_grad_(False)
    optimizer = torch.optim.AdamW(causal.tuned.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        ids, mask = padded(RAGGED)
        loss = causal(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    moved = {name.split(".")[0] for name, value in causal.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"tuned"}
