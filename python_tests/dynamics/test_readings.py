"""Logits of response tokens against a plain forward pass of each row alone."""

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
    """Of torch alone: no unembedding that it names, no mask."""

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
        logits = getattr(output, "logits", output)[0, -n:]
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
