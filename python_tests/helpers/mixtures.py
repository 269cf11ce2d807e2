"""Every method as a formula over whole logits, and a plain model of transformers that computes it."""

import torch
from transformers import GenerationMixin, LlamaConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from eft_ext import methods as m
from python_tests.helpers.naive import VOCAB


def contrast(x, beta, share):
    z = (1 + beta) * x[0] - beta * x[1]
    p = x[0].softmax(-1)
    return z.masked_fill(p < share * p.amax(-1, keepdim=True), -torch.inf)


def nucleus(x, top_p):
    """Tokens of the smallest set of the likeliest ones with this mass; at least one."""
    p, order = x.softmax(-1).sort(descending=True, stable=True)
    inside = p.cumsum(-1) - p < top_p
    inside[..., 0] = True
    return torch.zeros_like(inside).scatter(-1, order, inside)


def conservative(x, scale, top_p, of=1, outside="keep"):
    """Returns the mixture of logits; a mass of 1 is no constraint, and then nothing is normalised."""
    off = torch.as_tensor(top_p) >= 1
    large, tuned, base = (
        torch.where(off, x[0], x[0].log_softmax(-1)),
        x[1],
        torch.where(off, x[2], x[2].log_softmax(-1)),
    )
    rest = tuned if outside == "keep" else torch.full_like(tuned, -torch.inf)
    return torch.where(nucleus(x[of], top_p), tuned + scale * (large - base), rest)


def weighted(*weights):
    return lambda x: sum(w * v for w, v in zip(weights, x, strict=True))


# name: method, places of its models among the four, its mixture of logits [..., VOCAB]
MIXTURES = {
    "up-scale": (m.UpScale(0.6), (0, 1, 2), weighted(1, 0.6, -0.6)),
    "down-scale": (m.DownScale(0.6), (1, 0, 2), weighted(1, 0.6, -0.6)),
    "amplify": (m.Amplify(1.4), (0, 1, 2), weighted(1.4, 1, -1.4)),
    "conservative": (m.Conservative(0.7, method=m.Amplify(1.3)), (0, 1, 2), lambda x: conservative(x, 1.3, 0.7)),
    "conservative, drop": (
        m.Conservative(0.8, set="large", outside="drop", method=m.Amplify(1.3)),
        (0, 1, 2),
        lambda x: conservative(x, 1.3, 0.8, of=0, outside="drop"),
    ),
    "contrast": (m.Contrast(0.5, 0.1), (0, 1), lambda x: contrast(x, 0.5, 0.1)),
    "contrast, no constraint": (m.Contrast(0.5, 0.0), (0, 1), weighted(1.5, -0.5)),
    "realign": (m.Realign(1.5), (1, 2), weighted(-0.5, 1.5)),
    "interpolate": (m.Interpolate.between("a", "b", 0.3), (0, 1, 3, 2), weighted(1, 0.3, 0.7, -1)),
    "weighted": (m.Weighted({"x": 1.0, "y": -0.4}), (0, 2), weighted(1, -0.4)),
    "plain": (m.Plain(), (0,), weighted(1)),
}


class PlainMixture(PreTrainedModel, GenerationMixin):
    """The formula over models that read everything at each step: nothing cached, fused or in a child of ours."""

    config_class = LlamaConfig

    def __init__(self, models, z_of, vocab=VOCAB):
        super().__init__(LlamaConfig(vocab_size=vocab, pad_token_id=0, bos_token_id=1, eos_token_id=2))
        self.members, self.z_of, self.vocab = torch.nn.ModuleList(models), z_of, vocab
        self.post_init()

    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None, **_):
        """Logits of all positions, as plain calls of the models give them."""
        each = []
        for model in self.members:
            out = model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)
            each.append(out.logits[..., : self.vocab].float())
        return CausalLMOutput(logits=self.z_of(each))
