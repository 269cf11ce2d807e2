"""One forward pass of new tokens over static caches: positions, slots and masks from each row's length.

This is all that a graph captures, and all that is traced on the CPU: it reads nothing on the host, and its tensors
are inputs, never closures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eft_ext.decoding.static_cache.layers import StepCache


class Forward(nn.Module):
    """`model` as a function of tokens, lengths and caches.

    Args:
        model: a causal language model of transformers.
        windows: of each layer; None where it sees everything.
    """

    def __init__(self, model: Any, windows: Sequence[int | None]) -> None:
        super().__init__()
        self.model = model
        self.windows = tuple(windows)

    def forward(
        self, tokens: Tensor, lengths: Tensor, bases: tuple[Tensor, ...], columns: tuple[Tensor, ...], *stored: Tensor
    ) -> Tensor:
        """Logits [rows, new, vocab] after each of `tokens` [rows, new].

        Args:
            lengths: tokens that each row holds already, [rows].
            bases: first flat slot of each row, [rows, 1], for full layers and for sliding ones.
            columns: 0 … bound − 1 for full layers, 0 … size − 1 for sliding ones.
            stored: keys and values of every layer, [rows, size, heads, width].
        """
        positions = lengths[:, None] + torch.arange(tokens.shape[1], device=tokens.device)  # [rows, new]
        dtype = stored[0].dtype
        slots: list[Any] = [None, None]
        masks: dict[str, Tensor] = {}
        if None in self.windows:
            slots[0] = (bases[0] + positions).flatten()
            masks["full_attention"] = _additive(columns[0] > positions[..., None], dtype)
        window = next((w for w in self.windows if w is not None), None)
        if window is not None:
            size, query = columns[1].shape[0], positions[..., None]
            slots[1] = (bases[1] + positions % size).flatten()
            last = positions[:, -1:, None]
            token = last - (last - columns[1]) % size  # what each slot holds, [rows, 1, size]
            masks["sliding_attention"] = _additive((token > query) | (token <= query - window) | (token < 0), dtype)
        layers = [(stored[2 * i], stored[2 * i + 1], w is not None) for i, w in enumerate(self.windows)]
        out = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            past_key_values=StepCache(layers, (slots[0], slots[1]), columns[0].shape[0]),
            use_cache=True,
            return_dict=True,
        )
        logits: Tensor = out.logits
        return logits


def _additive(excluded: Tensor, dtype: torch.dtype) -> Tensor:
    """[rows, new, slots] -> what is added to the scores, [rows, 1, new, slots]."""
    return torch.zeros((), dtype=dtype, device=excluded.device).masked_fill(excluded, -torch.inf)[:, None]
