"""Logits of response tokens against a plain forward pass of each row alone."""

from functools import partial
from threading import Thread

import pytest
import torch
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from eft_ext.dynamics import decompose, verify
from eft_ext.dynamics.evaluation import evaluating
from eft_ext.dynamics.forward import response_logits
from eft_ext.dynamics.measure import measure
from python_tests.dynamics.conftest import VOCAB, build, draw

SHAPE = dict(vocab_size=VOCAB, hidden_size=16, intermediate_size=32, num_hidden_layers=2, initializer_range=0.3)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=4)


class Plain(nn.Module):
    """A module of torch alone: no unembedding that it names, no mask."""

    def __init__(self):
        super().__init__()
        self.table, self.mix = nn.Embedding(VOCAB, 16), nn.GRU(16, VOCAB, batch_first=True)

    def forward(self, ids):
        return self.mix(self.table(ids))[0]


class ByName(nn.Module):
    """Calls its unembedding with a name, and reshapes what it gets."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(VOCAB, 16), Head()

    def get_output_embeddings(self):
        return self.head

    def forward(self, ids):
        x = self.table(ids).cumsum(1)
        return self.head(hidden=x.flatten(0, 1)).unflatten(0, ids.shape)


class Head(nn.Linear):
    def __init__(self):
        super().__init__(16, VOCAB)

    def forward(self, hidden):
        return super().forward(hidden)


class Odd(nn.Module):
    """Has an unembedding that it names, and does more with it than transformers' models do."""

    def __init__(self, after):
        super().__init__()
        self.table, self.head, self.after = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB), after
        self.bias = nn.Parameter(torch.randn(32, VOCAB))

    def get_output_embeddings(self):
        return self.table if self.after == "table" else self.head

    def forward(self, ids, attention_mask=None):
        x = self.table(ids).cumsum(1)
        rows, length = ids.shape
        if self.after == "table":
            return x @ self.table.weight.T
        logits = self.head(x)
        if self.after == "position":
            return logits + self.bias[: logits.shape[1]]
        if self.after == "mask":
            return logits if attention_mask is None else logits * attention_mask[..., None]
        return logits.view(rows, length, -1) if self.after == "view" else (logits[:, :length],)


def adapted(**config):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    kind = config.pop("kind", peft.LoraConfig if "r" in config else None)
    model = peft.get_peft_model(
        build("llama").float(), (getattr(peft, kind) if isinstance(kind, str) else kind)(**config)
    )
    for p in model.parameters():  # an untrained adapter may do nothing
        if p.requires_grad:
            nn.init.normal_(p, std=0.3)
    return model


MODELS = {
    "llama": lambda: build("llama"),
    "tied": lambda: build("llama", tie_word_embeddings=True),
    "gpt2": lambda: build("gpt2"),
    "gemma2, which caps its logits": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, **HEADS, final_logit_softcapping=3.0)
    ),
    "cohere, which scales them": lambda: CohereForCausalLM(
        CohereConfig(**SHAPE, num_attention_heads=4, logit_scale=0.3)
    ),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE, num_attention_heads=4)),
    "mamba": lambda: MambaForCausalLM(MambaConfig(**SHAPE, state_size=4)),
    "of torch alone": Plain,
    "an unembedding called by name": ByName,
    **{
        f"a module that ends with a {after}": partial(Odd, after)
        for after in ("table", "position", "mask", "view", "tuple")
    },
    "lora": lambda: adapted(r=2, target_modules=["q_proj"]),
    "lora on the unembedding": lambda: adapted(r=2, target_modules=["lm_head"]),
    "a trained unembedding": lambda: adapted(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "prompt tuning": lambda: adapted(kind="PromptTuningConfig", task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix tuning": lambda: adapted(kind="PrefixTuningConfig", task_type="CAUSAL_LM", num_virtual_tokens=3),
}


def alone(model, responses):
    """[tokens, vocab]: each row without its padding, whole."""
    found = []
    for ids, keep, response in zip(responses.ids, responses.attention, responses.response, strict=True):
        n = int(keep.sum())
        with torch.no_grad():
            output = model(ids[None, :n])
        logits = (output[0] if isinstance(output, tuple) else getattr(output, "logits", output))[0, -n:]
        found.append(logits[response[1:n].nonzero()[:, 0]])
    return torch.cat(found).double()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, 5])
def test_logits_are_those_of_a_plain_forward(name, rows):
    torch.manual_seed(0)
    model = MODELS[name]().float().eval()
    responses = draw(rows, 3)
    expected = alone(model, responses)
    with torch.no_grad():
        found = response_logits(model, responses)
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=2e-5)
    log_pi = expected.log_softmax(-1).gather(1, responses.targets[:, None])[:, 0]
    for batch_size in (1, 2, 16):
        statistics, vocab = measure(model, responses, batch_size)
        assert vocab == VOCAB
        torch.testing.assert_close(statistics.log_prob.double(), log_pi, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lora on the unembedding", "prompt tuning", "an unembedding called by name"])
def test_their_steps_are_predicted(name):
    model = MODELS[name]().double().eval()
    result = verify(model, draw(3, 3), draw(2, 4), lr=(1e-3, 1e-4))
    assert abs(result.order - 2) < 0.1


@pytest.mark.parametrize("compiled", ["in place", "around", "its forward"])
def test_a_compiled_model_is_taken_apart(compiled):
    """Inductor's code has no forward-mode derivatives: every prediction was 0. Nothing of it is used here."""
    plain, model = build("llama"), build("llama")
    observed, update = draw(3, 3), draw(2, 4)
    if compiled == "in place":
        model.compile()
    elif compiled == "around":
        model = torch.compile(model)
    else:
        model.forward = torch.compile(model.forward)
    found, expected = (decompose(each, observed, update).change for each in (model, plain))
    assert expected.abs().min() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_threads_wait_for_one_another():
    model = build("llama").train()
    responses = [draw(5, seed) for seed in range(4)]
    alone = [measure(model, each)[0].log_prob for each in responses]
    found = [[] for _ in responses]

    def read(i):
        for _ in range(5):
            found[i].append(measure(model, responses[i])[0].log_prob)

    threads = [Thread(target=read, args=(i,)) for i in range(len(responses))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(x, alone[i]) for i, each in enumerate(found) for x in each)
    assert [len(each) for each in found] == [5] * 4
    assert model.training


def test_no_hook_is_left():
    model = build("llama")
    decompose(model, draw(2, 3), draw(2, 4))
    with pytest.raises(TypeError, match="on purpose"), evaluating(model):
        response_logits(model, draw(2, 3), {"lm_head.weight": Broken()})
    assert not any(module._forward_pre_hooks for module in model.modules())


class Broken(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise TypeError("on purpose")
