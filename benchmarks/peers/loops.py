"""Three published ways of decoding a trio, each as a plain loop after its structure; none of its authors' code.

All compute z = large + alpha (tuned - base), without an end of text, for models on one device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

ALPHA = 1.0


def choose(scores: Tensor, sample: bool) -> Tensor:
    """Returns tokens [rows] of scores [rows, V]."""
    if sample:
        return torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
    return scores.argmax(dim=-1)


@torch.no_grad()
def proxy_tuning(
    models: Sequence[Any], ids: Tensor, new: int, warpers: LogitsProcessorList, sample: bool, eos: int
) -> Tensor:
    """Proxy-tuning (Liu et al. 2024): serial passes, raw logits, ids and mask that grow by `cat`.

    Its first passes compute the logits of every position. One value is read on the host each step, to see if all rows
    have ended.
    """
    mask, caches = torch.ones_like(ids), [DynamicCache(config=model.config) for model in models]
    going = torch.ones(len(ids), dtype=torch.int64, device=ids.device)
    tokens = ids
    for _ in range(new):
        positions = (mask.cumsum(-1) - 1)[:, -tokens.shape[1] :]
        large, expert, antiexpert = (
            model(tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
            .logits[:, -1, :]
            .float()
            for model, cache in zip(models, caches, strict=True)
        )
        scores = warpers(ids, large + ALPHA * (expert - antiexpert))
        tokens = choose(scores, sample)[:, None]
        ids = torch.cat([ids, tokens], dim=-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
        going = going.mul((tokens[:, 0] != eos).long())
        if going.max() == 0:
            break
    return ids


class Disalignment(LogitsProcessor):
    """Emulated disalignment (Zhou et al. 2024): a processor in the large model's `generate` that runs the others.

    It weights the log-softmax of each model. One object serves one call.
    """

    def __init__(self, others: Sequence[Any], weights: Sequence[float]) -> None:
        self._others, self._weights = others, weights
        self._caches = [DynamicCache(config=model.config) for model in others]
        self._read = 0

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        mask, tokens = torch.ones_like(input_ids), input_ids[:, self._read :]
        positions = (mask.cumsum(-1) - 1)[:, self._read :]
        self._read = input_ids.shape[1]
        mixed = self._weights[0] * torch.log_softmax(scores.float(), dim=-1)
        for model, cache, weight in zip(self._others, self._caches, self._weights[1:], strict=True):
            logits = model(
                tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
            ).logits[:, -1]
            mixed = mixed + weight * torch.log_softmax(logits.float(), dim=-1)
        return mixed


def disalignment(models: Sequence[Any], ids: Tensor, new: int, options: dict[str, Any]) -> Tensor:
    """Returns ids [rows, prompt + new] of the large model's own `generate` with that processor."""
    processors = LogitsProcessorList([Disalignment(models[1:], (1.0, ALPHA, -ALPHA))])
    mask = torch.ones_like(ids)
    return models[0].generate(ids, attention_mask=mask, max_new_tokens=new, logits_processor=processors, **options)


class CachedRows:
    """A model of the loop below, and for each row its keys and values by layer [heads, tokens, width], unpadded."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._rows: list[list[tuple[Tensor, Tensor]]] = []

    def forward(self, texts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
        """Reads the tokens that are new in each text and returns logits [rows, V] fp32 of the last."""
        held = [row[0][0].shape[1] for row in self._rows] or [0] * len(texts)
        unread = [list(text[n:]) for text, n in zip(texts, held, strict=True)]
        past, width = max(held), max(map(len, unread))
        cache = DynamicCache(config=self._model.config)
        for layer in range(len(self._rows[0]) if self._rows else 0):
            cache.update(*(self._stacked(layer, part, past) for part in (0, 1)), layer)
        mask = torch.tensor([[0] * (past - n) + [1] * n + [0] * (width - len(new)) + [1] * len(new)
                             for n, new in zip(held, unread, strict=True)], device=device)  # fmt: skip
        ids = torch.tensor([[0] * (width - len(new)) + new for new in unread], device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -width:]
        logits = self._model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        ).logits
        self._rows = [
            [(layer.keys[i][:, kept], layer.values[i][:, kept]) for layer in cache.layers]
            for i, kept in enumerate(mask.bool())
        ]
        return logits[:, -1].float()

    def _stacked(self, layer: int, part: int, length: int) -> Tensor:
        """Returns keys or values [rows, heads, length, width], padded on the left."""
        rows = [row[layer][part] for row in self._rows]
        return torch.stack([torch.cat([x.new_zeros(len(x), length - x.shape[1], x.shape[2]), x], 1) for x in rows])


Formula = Callable[[Sequence[Tensor]], Tensor]


def term(index: int) -> Formula:
    """A leaf of the tree: the log-softmax of one model."""
    return lambda logits: torch.log_softmax(logits[index], dim=-1)


def scaled(weight: float, formula: Formula) -> Formula:
    return lambda logits: weight * formula(logits)


def plus(left: Formula, right: Formula) -> Formula:
    return lambda logits: left(logits) + right(logits)


UP_SCALED = plus(term(0), scaled(ALPHA, plus(term(1), scaled(-1.0, term(2)))))


@torch.no_grad()
def arithmetic(models: Sequence[Any], ids: Tensor, new: int, warpers: LogitsProcessorList, sample: bool) -> Tensor:
    """Language model arithmetic (Dekoninck et al. 2024): a tree of operators, texts as lists, caches by row.

    Each step pads and stacks every row's cache anew, and reads each row's token on the host.
    """
    texts, cached = ids.tolist(), [CachedRows(model) for model in models]
    for _ in range(new):
        scores = UP_SCALED([model.forward(texts, ids.device) for model in cached])
        for text, token in zip(texts, choose(warpers(None, scores), sample), strict=True):
            text.append(token.item())
    return torch.tensor(texts, device=ids.device)
