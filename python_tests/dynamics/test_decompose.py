"""The prediction against the step itself, and against K formed in full."""

import pytest
import torch
from torch import nn

from eft_ext.dynamics import DPO, IPO, SFT, SPPO, Pairs, Responses, SLiC, decompose, verify
from eft_ext.dynamics.forward import jvp, response_logits, token_log_probs, trainable
from eft_ext.dynamics.losses import gradient

LOSSES = (SFT(), SFT("sum"), DPO(0.5), IPO(0.5), SLiC(100.0), SPPO())
LRS = (1e-4, 1e-5, 1e-6)


def focal(logits, update):
    """A loss of the user's."""
    log_p = token_log_probs(logits, update.responses.targets)
    return -((1 - log_p.exp()) ** 2 * log_p).sum()


@pytest.mark.parametrize("loss", [*LOSSES, focal], ids=lambda loss: getattr(loss, "__name__", str(loss)))
def test_the_error_is_of_second_order(loss, model, responses, pairs):
    update = responses(2, 5) if isinstance(loss, SFT) or loss is focal else pairs(model)
    result = verify(model, responses(3, 4), update, loss, LRS)
    ratios = result.error[:-1] / result.error[1:]
    assert ((ratios > 90) & (ratios < 110)).all(), ratios
    assert result.actual[-1].abs().max() > 100 * result.error[-1]  # there is something to predict
    assert abs(result.order - 2) < 0.02


def test_the_model_is_left_as_it_was(model, responses):
    model.train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    decompose(model, responses(3, 4), responses(2, 5))
    verify(model, responses(3, 4), responses(2, 5), lr=0.1)
    assert model.training
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def jacobian(model, responses):
    """∂z/∂θ, [tokens, vocab, parameters]."""
    parameters = trainable(model)
    rows = torch.func.jacrev(lambda p: response_logits(model, responses, p))(parameters)
    return torch.cat([j.flatten(2) for j in rows.values()], -1)


def test_against_k_in_full(responses):
    model = Bigram()
    observed, update = responses(2, 1), responses(2, 2)
    found = decompose(model, observed, update, SFT("sum"), 0.01, vectors=True)
    j_o, j_u = jacobian(model, observed), jacobian(model, update)
    k = torch.einsum("mvp,lwp->mvlw", j_o, j_u)
    g = gradient(SFT("sum"), response_logits(model, update), update)
    kg = torch.einsum("mvlw,lw->mv", k, g)
    torch.testing.assert_close(found.vectors.kg, kg)
    torch.testing.assert_close(found.kg_norm, kg.norm(dim=-1))
    torch.testing.assert_close(found.g_norm, g.norm(dim=-1))
    pi = response_logits(model, observed).softmax(-1)
    a = torch.eye(48, dtype=torch.float64) - torch.ones(48, dtype=torch.float64)[:, None] * pi[:, None]
    torch.testing.assert_close(found.a_norm, a.flatten(1).norm(dim=-1))
    change = -0.01 * torch.einsum("mvw,mw->mv", a, kg)
    torch.testing.assert_close(found.full_change(), change)
    torch.testing.assert_close(found.change, change.gather(1, observed.targets[:, None]).squeeze(1))
    torch.testing.assert_close(found.per_response, torch.stack([x.sum() for x in observed.split(found.change)]))


class Bigram(nn.Module):
    """A module that is none of transformers'."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Embedding(48, 3, dtype=torch.float64)
        self.outer = nn.Linear(3, 48, dtype=torch.float64)

    def forward(self, ids):
        return self.outer(torch.tanh(self.inner(ids)))


def test_batches_and_padding_change_nothing(model, responses):
    observed, update = responses(7, 4), responses(3, 5)
    whole = decompose(model, observed, update, SFT("sum"))
    torch.testing.assert_close(decompose(model, observed, update, SFT("sum"), batch_size=2).change, whole.change)
    alone = [decompose(model, one, update, SFT("sum")).change for one in observed.batches(1)]
    torch.testing.assert_close(torch.cat(alone), whole.change)
    parts = [decompose(model, observed, one, SFT("sum")).change for one in update.batches(1)]
    torch.testing.assert_close(sum(parts), whole.change)


def test_only_trainable_parameters_move(llama, responses):
    for name, p in llama.named_parameters():
        p.requires_grad_("layers.1" in name)
    result = verify(llama, responses(2, 1), responses(2, 2), SFT(), LRS)
    assert abs(result.order - 2) < 0.02
    llama.requires_grad_(False)
    with pytest.raises(ValueError, match="model: expected at least one parameter with requires_grad"):
        decompose(llama, responses(2, 1), responses(2, 2))


class _Cubed(torch.autograd.Function):
    """Has a second derivative, but no forward-mode one."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


def test_without_forward_mode():
    torch.manual_seed(0)
    parameters = {name: torch.randn(5, dtype=torch.float64) for name in "ab"}
    direction = {name: torch.randn(5, dtype=torch.float64) for name in "ab"}

    def function(p, cube):
        return cube(p["a"]) * p["b"].sum()

    slow = jvp(lambda p: function(p, _Cubed.apply), parameters, direction)
    fast = jvp(lambda p: function(p, lambda x: x**3), parameters, direction)
    for x, y in zip(slow, fast, strict=True):
        torch.testing.assert_close(x, y)


def test_other_errors_are_not_swallowed():
    def broken(p):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        jvp(broken, {"a": torch.ones(1)}, {"a": torch.ones(1)})


def test_wrong_input(llama, responses):
    with pytest.raises(ValueError, match="lr: expected positive learning rates"):
        verify(llama, responses(2, 1), responses(2, 2), lr=0.0)
    with pytest.raises(ValueError, match="made with vectors=True"):
        decompose(llama, responses(2, 1), responses(2, 2)).full_change()


def test_adapters(responses):
    """Low-rank adapters: only they take the step."""
    peft = pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    inner = LlamaForCausalLM(LlamaConfig(vocab_size=48, **shape)).double()
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(inner, config).double()
    pair = Pairs(responses(2, 1), responses(2, 2)).with_reference(model)
    result = verify(model, responses(3, 3), pair, DPO(), (1e-2, 1e-3))
    assert abs(result.order - 2) < 0.05
    assert isinstance(result.observed, Responses)
