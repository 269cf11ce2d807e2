"""A plain loop over whole sequences, and the prompts that methods are tried on."""

import torch

NEW = 10
VOCAB = 264


@torch.no_grad()
def naive(models, z_of, prompts, new=NEW, vocab=VOCAB):
    """One row, everything read from scratch at each token; `z_of(step, logits)` mixes float64 logits [vocab]."""
    sequences, out = [list(p) for p in prompts], []
    for step in range(new):
        z = z_of(
            step,
            [x(torch.tensor([s])).logits[0, -1, :vocab].double() for x, s in zip(models, sequences, strict=True)],
        )
        out.append(int(z.argmax()))
        for sequence in sequences:
            sequence.append(out[-1])
    return out


RAGGED = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27], [31], [41, 42, 43, 44, 45]]


def padded(rows):
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return ids, (torch.arange(width) >= torch.tensor([[width - len(row)] for row in rows])).long()


def named(method, places, models):
    return dict(zip(method.models, (models[place] for place in places), strict=True))
