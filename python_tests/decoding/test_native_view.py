"""Views of models with native products and attention give the model's own logits, and leave the model as it is."""

import copy

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.capture import traced_forward
from eft_ext.decoding.static_cache import native_view as views
from eft_ext.decoding.static_cache.native_view import NativeLinear, native_view
from eft_ext.ops import attention as attention_op
from eft_ext.ops import linear as linear_op


def llama(kv_heads=4, tied=False, attention="sdpa", dtype=torch.float32):
    """A model whose projections and head are large enough for the kernel."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=512,
        intermediate_size=768,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        attn_implementation=attention,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config).eval().to(dtype)


def plainly(model, texts):
    """Logits [rows, V] after each text, read whole and alone by transformers in float64."""
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        return torch.stack([double(torch.tensor([text])).logits[0, -1] for text in texts])


def statically(model, prompts, more):
    """Logits [rows, n, V] of `more` tokens each, from static caches."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    static = StaticCacheModel(model)
    static.prefill(ids, mask)
    return static.forward(torch.tensor(more))


@pytest.mark.parametrize("kv_heads", [8, 2])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("new", [1, 3])
def test_logits_are_the_models_own(kv_heads, tied, attention, new):
    model = llama(kv_heads, tied, attention)
    prompts, more = [[5, 6, 7, 8], [9, 3]], [[11, 12, 13][:new], [21, 22, 23][:new]]
    got = statically(model, prompts, more)
    for i in range(new):
        expected = plainly(model, [p + m[: i + 1] for p, m in zip(prompts, more, strict=True)])
        torch.testing.assert_close(got[:, i].double(), expected, rtol=1e-4, atol=1e-4)


def test_both_operations_are_reached(monkeypatch):
    calls = []
    monkeypatch.setattr(views, "linear", lambda *args: calls.append("linear") or linear_op.linear(*args))
    monkeypatch.setattr(views, "attention", lambda *args: calls.append("attention") or attention_op.attention(*args))
    static = StaticCacheModel(llama())
    prompts, mask, new = (
        torch.tensor([[5, 6, 7], [0, 8, 9]]),
        torch.tensor([[1, 1, 1], [0, 1, 1]]),
        torch.tensor([[1], [2]]),
    )
    for reads in (lambda: static.prefill(prompts, mask), lambda: static.forward(new)):
        calls.clear()
        reads()
        assert calls.count("attention") == 2
        assert calls.count("linear") == 15  # q, k, v, o, gate, up and down of both layers, and the head


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trace_holds_the_operators(rows, dtype, monkeypatch):
    monkeypatch.setattr(traced_forward, "AFTER", 0)
    model = llama(dtype=dtype)
    prompts, more = [[5, 6, 7], [8, 9, 1]][:rows], [[1, 3, 2], [2, 4, 5]][:rows]
    static = StaticCacheModel(model)
    static.prefill(torch.tensor(prompts))
    for i in range(3):  # compared with the view, then by itself
        got = static.forward(torch.tensor(more)[:, i : i + 1])[:, 0].double()
        expected = plainly(model, [p + m[: i + 1] for p, m in zip(prompts, more, strict=True)])
        assert (got - expected).abs().max() < (0.05 if dtype is torch.bfloat16 else 1e-5) * expected.abs().max()
    graph = str(traced_forward._STATES[model].traces[rows == 1].graph)
    assert graph.count("eft_ext::attention") == 2
    # q, o, gate, up and down of both layers, and the head; in fp32 k and v are large enough too, one row is torch's.
    assert graph.count("eft_ext::linear") == {(torch.float32, 1): 0, (torch.float32, 2): 15}.get((dtype, rows), 11)


def test_an_attention_of_ones_own_under_the_name_of_sdpa_runs(monkeypatch):
    calls = []

    def own(*args, **kwargs):
        calls.append(len(args))
        return sdpa_attention_forward(*args, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", own)
    statically(llama(), [[5, 6, 7], [8, 9]], [[1], [2]])
    assert len(calls) == 4  # of both layers, for the prompts and for the step


def test_the_model_stays_as_it_is():
    model = llama()
    before = {name: (type(module), dict(vars(module))) for name, module in model.named_modules()}
    kept = model.config.to_dict()
    statically(model, [[5, 6, 7]], [[1, 2]])
    assert model.config.to_dict() == kept
    assert model.config._attn_implementation == "sdpa"
    for name, module in model.named_modules():
        assert type(module) is before[name][0]
        assert all(value is before[name][1][key] for key, value in vars(module).items())


def test_changed_weights_are_seen():
    model = llama()
    view = native_view(model)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        model.lm_head.weight = nn.Parameter(model.lm_head.weight * 2)
        model.model.layers[0].mlp.up_proj.weight.mul_(0.5)
        torch.testing.assert_close(view(ids).logits, model(ids).logits)


def test_rows_get_the_same_logits_among_others_and_alone():
    model = llama()
    prompts, more = [[5, 6, 7, 8], [9, 3, 4, 1]], [[11, 12], [21, 22]]
    both = statically(model, prompts, more)
    for row in (0, 1):
        alone = statically(model, prompts[row : row + 1], more[row : row + 1])
        torch.testing.assert_close(both[row], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["hook", "forward"])
def test_a_model_that_calls_other_python_runs_itself(kind):
    model = llama()
    if kind == "hook":
        model.lm_head.register_forward_hook(lambda *_: None)
    else:
        model.lm_head.forward = model.lm_head.forward
    assert native_view(model) is model


def test_small_and_foreign_layers_stay():
    class Other(nn.Linear):
        pass

    model = llama()
    model.model.layers[0].mlp.up_proj.__class__ = Other
    view = native_view(model)
    assert type(view.model.layers[0].mlp.up_proj) is Other
    assert type(view.model.layers[1].mlp.up_proj) is NativeLinear
    small = model.model.layers[1].self_attn.k_proj  # 256 x 512
    small.weight = nn.Parameter(small.weight[:64].clone())
    assert type(native_view(model).model.layers[1].self_attn.k_proj) is nn.Linear


def test_bf16_is_near_float64():
    model = llama(dtype=torch.bfloat16)
    prompts, more = [[5, 6, 7, 8], [9, 3]], [[11], [21]]
    got = statically(model, prompts, more)[:, 0].double()
    expected = plainly(model, [p + m for p, m in zip(prompts, more, strict=True)])
    assert (got - expected).abs().max() < 0.05 * expected.abs().max()
