"""The last layer in closed form, and the norm of K."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from eft_ext.dynamics import DPO, SFT, SPPO, decompose, kernel_norms, last_layer
from eft_ext.dynamics.forward import response_logits, trainable


@pytest.mark.parametrize("loss", [SFT(), SFT("sum"), DPO(0.5), SPPO()], ids=str)
def test_last_layer_is_the_decomposition_of_the_unembedding(loss, llama, responses, pairs):
    llama.requires_grad_(False)
    llama.lm_head.weight.requires_grad_(True)
    update = responses(2, 5) if isinstance(loss, SFT) else pairs(llama)
    observed = responses(3, 4)
    expected = decompose(llama, observed, update, loss, 0.1).change
    torch.testing.assert_close(last_layer(llama, observed, update, loss, 0.1), expected, rtol=1e-9, atol=1e-12)


def test_last_layer_as_the_paper_writes_it(llama, responses):
    """⟨r_m, r_l⟩ = π_m·π_l − π_m[y_l] − π_l[y_m] + 1{y_m = y_l}."""
    observed, update = responses(2, 4), responses(2, 5)
    hidden = []
    hook = llama.lm_head.register_forward_hook(lambda module, inputs, output: hidden.append(inputs[0]))
    llama(observed.ids, attention_mask=observed.attention.long())
    llama(update.ids, attention_mask=update.attention.long())
    hook.remove()
    h_m, h_l = (h[x.row, x.position - 1] for h, x in zip(hidden, (observed, update), strict=True))
    pi_m, pi_l = (response_logits(llama, x).softmax(-1) for x in (observed, update))
    y_m, y_l = observed.targets, update.targets
    rr = pi_m @ pi_l.T - pi_m[:, y_l] - pi_l[:, y_m].T + (y_m[:, None] == y_l).double()
    expected = 0.2 * ((h_m @ h_l.T) * rr).sum(1)
    torch.testing.assert_close(last_layer(llama, observed, update, SFT("sum"), 0.2), expected)


def test_last_layer_refuses_softcapped_logits(responses):
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=8)
    config = Gemma2Config(vocab_size=48, num_key_value_heads=2, final_logit_softcapping=0.1, **shape)
    with pytest.raises(ValueError, match="changed after it"):
        last_layer(Gemma2ForCausalLM(config).eval(), responses(1, 1), responses(1, 2))


@pytest.mark.slow
def test_kernel_norms(llama, responses):
    """Against K formed in full: within four standard errors, and those shrink as they should."""
    llama.requires_grad_(False)
    llama.model.layers[0].mlp.requires_grad_(True)
    observed, update = responses(3, 1), responses(2, 2)

    def jacobian(x):
        rows = torch.func.jacrev(lambda p: response_logits(llama, x, p))(trainable(llama))
        return torch.cat([j.flatten(2) for j in rows.values()], -1)

    j_o, j_u = jacobian(observed), jacobian(update)
    exact = torch.empty(3, 2, dtype=torch.float64)
    for o in range(3):
        for u in range(2):
            k = j_o[observed.row == o].flatten(0, 1) @ j_u[update.row == u].flatten(0, 1).T
            exact[o, u] = k.norm()
    few, many = (
        kernel_norms(llama, observed, update, samples=n, generator=torch.Generator().manual_seed(n)) for n in (16, 64)
    )
    for estimate in (few, many):
        assert ((estimate.norm - exact).abs() < 4 * estimate.error).all()
    assert (many.error < 0.1 * exact).all()
    with pytest.raises(ValueError, match="samples: expected at least 2"):
        kernel_norms(llama, observed, update, samples=1)
