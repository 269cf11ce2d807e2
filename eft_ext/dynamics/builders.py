"""Types of probe that need no other model to write them.

Each returns one text for each probe, for `ProbeSet.with_type`. The same seed gives the same texts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from eft_ext._seam import added_text
from eft_ext.dynamics.chats import encode
from eft_ext.dynamics.context import check_rows
from eft_ext.dynamics.evaluation import device_of, evaluating
from eft_ext.dynamics.probes import ProbeSet


def permuted_words(probes: ProbeSet, of: str = "chosen", seed: int = 0) -> list[str]:
    """Shuffles the words of each response: the right tokens, no grammar.

    A response of one word, or of one word repeated, is unchanged. Leading space is kept.
    """
    texts = []
    for number, text in enumerate(probes.texts(of)):
        rng = random.Random(f"permuted {seed} {number}")
        words = text.split()
        shuffled = list(words)
        while shuffled == words and len(set(words)) > 1:
            rng.shuffle(shuffled)
        texts.append(text[: len(text) - len(text.lstrip())] + " ".join(shuffled))
    return texts


def cross_prompt(probes: ProbeSet, of: str = "chosen", seed: int = 0) -> list[str]:
    """Gives each probe the response to another probe's prompt: fluent and wrong.

    Raises:
        ValueError: there are fewer than two probes.
    """
    if len(probes) < 2:
        raise ValueError(f"probes: expected at least 2 to exchange responses, got {len(probes)}")
    texts = probes.texts(of)
    order = random.Random(f"cross {seed}").sample(range(len(texts)), len(texts))
    after = dict(zip(order, order[1:] + order[:1], strict=True))
    return [texts[after[i]] for i in range(len(texts))]


def random_responses(probes: ProbeSet, pool: Sequence[str], seed: int = 0) -> list[str]:
    """Draws responses from a pool, such as those of a training set (irr_train) or of a test set (irr_test).

    No probe gets a text that it already has among its responses.

    Raises:
        ValueError: some probe already has every response of the pool.
    """
    rng = random.Random(f"random {seed}")
    texts = []
    for number, probe in enumerate(probes):
        own = set(probe.responses.values())
        if own.issuperset(pool):
            raise ValueError(f"pool: expected a response that probe {number} has not, got {len(pool)} that it has")
        text = rng.choice(pool)
        while text in own:
            text = rng.choice(pool)
        texts.append(text)
    return texts


@torch.no_grad()
def own_responses(
    model: Any,
    tokenizer: Any,
    probes: ProbeSet,
    *,
    max_new_tokens: int = 64,
    seed: int | None = None,
    batch_size: int = 16,
) -> list[str]:
    """Returns the model's own answers: greedy, or sampled at temperature 1 if a seed is given.

    Args:
        model, tokenizer: a causal language model of transformers and its tokenizer.
        probes: the prompts to answer.
        max_new_tokens: the most tokens of an answer.
        seed: of the draw; None is greedy.
        batch_size: prompts in one batch.

    Raises:
        ValueError: a chat that the tokenizer's template does not take; a prompt with its answer may be longer than
            the model's table of positions; an empty answer.

    Warns:
        ContextWarning: they may be longer than the model was made for.
    """
    options: dict[str, Any] = {"do_sample": False} if seed is None else {"do_sample": True, "top_k": 0, "top_p": 1.0}
    pad = getattr(tokenizer, "pad_token_id", None) or 0
    where = [probe.where or f"probe {i}" for i, probe in enumerate(probes)]
    heads = [head for head, _ in encode(tokenizer, [(probe.prompt, "") for probe in probes], where)]
    lengths = torch.tensor([len(head) for head in heads]) + max_new_tokens - 1  # the last token is not read
    check_rows({"model": model}, torch.arange(int(lengths.max())) < lengths[:, None], where)
    texts: list[str] = []
    with evaluating(model) as inner, torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        for i in range(0, len(probes), batch_size):
            some = slice(i, i + batch_size)
            rows = [torch.tensor(head) for head in heads[some]]
            ids = _left(rows, pad).to(device_of(model))
            mask = _left([torch.ones_like(row) for row in rows], 0).to(ids.device)
            out = cast(Any, inner).generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, **options)
            new = out[:, ids.shape[1] :].tolist()
            texts += [added_text(tokenizer, head, row) for head, row in zip(heads[some], new, strict=True)]
    empty = next((i for i, text in enumerate(texts) if not text), None)
    if empty is not None:
        raise ValueError(f"model: expected an answer to every prompt, got an empty one to probe {empty}")
    return texts


def _left(rows: list[Tensor], value: int) -> Tensor:
    """Rows of different lengths as one tensor, `value` in front of the shorter ones."""
    return pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")
