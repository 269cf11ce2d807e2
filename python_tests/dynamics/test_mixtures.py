"""Mixtures of experts, whose grouped product torch has neither in fp64 nor in forward mode."""

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from eft_ext.dynamics import DPO, SFT, decompose, verify
from eft_ext.dynamics.precision import KeepDouble
from python_tests.dynamics.conftest import VOCAB

SHAPE = dict(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
EXPERTS = dict(num_experts_per_tok=2, initializer_range=0.3)


def mixture(family):
    torch.manual_seed(0)
    if family == "mixtral":
        return MixtralForCausalLM(MixtralConfig(intermediate_size=32, num_local_experts=8, **SHAPE, **EXPERTS)).eval()
    sizes = dict(intermediate_size=32, moe_intermediate_size=16, shared_expert_intermediate_size=16, num_experts=8)
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**sizes, **SHAPE, **EXPERTS)).eval()


@pytest.mark.parametrize("loss", [SFT("sum"), DPO(0.5)], ids=str)
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_the_error_is_of_second_order(family, loss, responses, pairs):
    """The routing is piecewise constant: the steps are small enough to leave it as it is."""
    model = mixture(family).double()
    update = responses(2, 5) if isinstance(loss, SFT) else pairs(model)
    result = verify(model, responses(3, 4), update, loss, (1e-5, 1e-6, 1e-7))
    ratios = result.error[:-1] / result.error[1:]
    assert ((ratios > 90) & (ratios < 110)).all(), ratios
    assert result.actual[-1].abs().max() > 100 * result.error[-1]


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_fp32_predicts_what_fp64_does(family, responses):
    model = mixture(family)
    found = decompose(model, responses(3, 4), responses(2, 5))
    exact = decompose(model.double(), responses(3, 4), responses(2, 5))
    assert found.change.dtype == torch.float32
    torch.testing.assert_close(
        found.change.double(), exact.change, rtol=1e-3, atol=1e-4 * float(exact.change.abs().max())
    )


@pytest.mark.parametrize("sizes", [(3, 0, 4), (0, 7), (7,), (2, 5, 0)], ids=str)
def test_grouped_product(sizes):
    torch.manual_seed(0)
    x, weights = torch.randn(7, 4, dtype=torch.float64), torch.randn(len(sizes), 4, 3, dtype=torch.float64)
    expected, row = [], 0
    for size, weight in zip(sizes, weights, strict=True):
        for _ in range(size):
            expected.append([sum(float(x[row, k] * weight[k, n]) for k in range(4)) for n in range(3)])
            row += 1
    offs = torch.tensor(sizes).cumsum(0).int()
    with KeepDouble():
        product = torch._grouped_mm(x, weights, offs=offs)
    torch.testing.assert_close(product, torch.tensor(expected, dtype=torch.float64))
