"""A prompt that repeats, so that drafts by lookup stand, and what is asked of its continuation."""

import torch

NEW = 8
PROMPT = [5, 6, 7, 5, 6, 7, 5, 6]
OPTIONS = dict(max_new_tokens=NEW, eos_token_id=[999])


def up(step, x):
    """Up-scaling, as `naive` takes a mixture."""
    return x[0] + x[1] - x[2]


def ids():
    return torch.tensor([PROMPT])


def new(got, length=8):
    """The new tokens of the first row."""
    return getattr(got, "sequences", got)[0, length:].tolist()
