"""A plain loop over whole sequences, for loops and engines that are to give the same, and prompts to try it on."""

import torch
from transformers import AutoModelForCausalLM

NEW = 10
VOCAB = 264


@torch.no_grad()
def naive(models, z_of, prompts, new=NEW, vocab=VOCAB, ends=()):
    """One row, everything read from scratch at each token, up to and with one of `ends`.

    `z_of(step, logits)` mixes float64 logits [vocab].
    """
    sequences, out = [list(p) for p in prompts], []
    for step in range(new):
        z = z_of(
            step,
            [x(torch.tensor([s])).logits[0, -1, :vocab].double() for x, s in zip(models, sequences, strict=True)],
        )
        out.append(int(z.argmax()))
        for sequence in sequences:
            sequence.append(out[-1])
        if out[-1] in ends:
            break
    return out


def load(folder, names):
    """Models by their folders' names, in fp32."""
    return [AutoModelForCausalLM.from_pretrained(f"{folder}/{name}", dtype=torch.float32).eval() for name in names]


@torch.no_grad()
def logits(models, ids):
    """Each model's logits at every position, float64 [length, V], V that of the narrowest."""
    found = [model(torch.tensor([list(ids)]), use_cache=False).logits[0].double() for model in models]
    width = min(each.shape[1] for each in found)
    return [each[:, :width] for each in found]


def up_scaled(beta):
    """large + beta·(tuned − base)."""
    return lambda large, tuned, base: large + beta * (tuned - base)


def greedy(models, mixture, ids, count, ends=(0,)):
    """The likeliest tokens of `mixture` over the models' logits, one prompt for all, up to and with one of `ends`."""
    width = min(model.config.vocab_size for model in models)
    return naive(models, lambda _, z: mixture(*z), [ids] * len(models), count, width, ends)


RAGGED = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27], [31], [41, 42, 43, 44, 45]]


def padded(rows):
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return ids, (torch.arange(width) >= torch.tensor([[width - len(row)] for row in rows])).long()


def named(method, places, models):
    return dict(zip(method.models, (models[place] for place in places), strict=True))
