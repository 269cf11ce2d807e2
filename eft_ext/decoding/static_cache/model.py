"""One model decoding a ragged batch from static caches: the interface that loops and speculation are written on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from eft_ext.decoding.capture.traced_forward import TracedForward
from eft_ext.decoding.padding import left_padded
from eft_ext.decoding.static_cache.forward import Forward
from eft_ext.decoding.static_cache.layers import SLACK
from eft_ext.decoding.static_cache.storage import Storage
from eft_ext.decoding.static_cache.support import (
    cache_layers,
    forward_parameters,
    input_table,
    learned_positions,
    unsupported,
)


class StaticCacheModel:
    """Reads prompts, then any number of tokens at a time, each row at its own position.

        feeder = StaticCacheModel(model)
        logits = feeder.prefill(ids, mask)        # [rows, vocab], after each prompt
        logits = feeder.forward(tokens)              # tokens [rows, n] -> [rows, n, vocab]
        feeder.crop(feeder.lengths - 2)       # forgets each row's last two tokens

    Nothing but `prefill` and `admit` waits for the device. The model is not changed. Logits and lengths are inference
    tensors: read them, or clone them before changing them in place.

    Args:
        model: a causal language model of transformers for which `unsupported(model)` is None.
        name: for messages.
        capacity: tokens a row is expected to grow to, prompt included; more are made room for when they come.
        checked: ask `unsupported` first.
        switch: enters the state in which the model is run, such as an adapter being off.

    Attributes:
        prompt_lengths: tokens of each row of the last prompts that were read.

    Raises:
        ValueError: the model cannot be decoded from static caches.
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str = "model",
        capacity: int = 0,
        checked: bool = True,
        switch: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        reason = unsupported(model) if checked else None
        if reason is not None:
            raise ValueError(f"{name}: {type(model).__name__} {reason}")
        self.model, self.name = model, name
        self._config = model.config.get_text_config(decoder=True)
        self._switch = switch
        self._wanted = capacity
        windows = [getattr(layer, "sliding_window", None) for layer in cache_layers(self._config)]
        self._storage = Storage(windows)
        self._forward = TracedForward(Forward(model, windows))
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in forward_parameters(model) else {}
        self._limit = learned_positions(model)
        self._longest = 0  # no row is longer; known without asking the device

    @property
    def lengths(self) -> Tensor:
        """Tokens that each row holds, int64 [rows] on the model's device; `feed` changes it in place."""
        return self._storage.lengths[: self._storage.rows]

    @property
    def stored_lengths(self) -> Tensor:
        """`lengths` of all rows that there is room for, which stay at their address until the next `prefill`."""
        return self._storage.lengths

    @property
    def longest(self) -> int:
        """An upper bound of `lengths`, on the host."""
        return self._longest

    @property
    def limit(self) -> int | None:
        """Tokens that a row may hold, where the model has a table of positions."""
        return self._limit

    @property
    def plain_because(self) -> str | None:
        """Why the forward pass is not recorded, the end of a sentence; None where it is, or will be."""
        return self._forward.reason

    @torch.inference_mode()
    def prefill(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Starts from scratch with prompts [rows, length], padded where `mask` (same shape) is 0.

        Returns the logits after each prompt, [rows, vocab].
        """
        logits, stock, lengths = self._read(ids, mask)
        self._longest = max(self.prompt_lengths)
        self._storage.start(stock, lengths, max(self._longest + 1, self._wanted))
        return logits

    def expand(self, capacity: int) -> None:
        """Tokens a row is expected to grow to after the next `prefill`, if more than before."""
        self._wanted = max(self._wanted, capacity)

    @torch.inference_mode()
    def admit(self, rows: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Other prompts into `rows` (indices) of the batch, whose tokens are forgotten; the others are not touched.

        Returns the logits after each of these prompts, [len(rows), vocab].
        """
        logits, stock, lengths = self._read(ids, mask)
        longest = max(self.prompt_lengths)
        self._reserve(longest)
        self._longest = max(self._longest, longest)
        self._storage.admit(rows, stock, lengths)
        return logits

    @torch.inference_mode()
    def forward(self, tokens: Tensor) -> Tensor:
        """Appends `tokens` [rows, n]; returns the logits after each, [rows, n, vocab].

        Raises ValueError where a row would outgrow a table of learned positions, or n is above 64 and the model
        has sliding windows.
        """
        n = tokens.shape[1]
        if n > SLACK and self._storage.sliding:
            raise ValueError(f"tokens: expected at most {SLACK} at a time for a sliding window, got {n}")
        self.reserve(n)
        self._longest += n
        logits = self.run(tokens)
        self.lengths.add_(n)
        return logits

    def reserve(self, n: int) -> None:
        """Makes room for `n` more tokens in every row, so that `run` allocates no storage."""
        self._reserve(self._longest + n)

    def run(self, tokens: Tensor, skip: int = 0) -> Tensor:
        """`feed` without what happens on the host, after `reserve` and `expect`: what a graph captures.

        The caller advances `lengths`.

        Args:
            skip: tokens that were run before these and are not counted in `lengths` yet.
        """
        lengths = self.lengths
        if skip:
            lengths = lengths + skip
        if tokens.device != lengths.device:
            tokens = tokens.to(lengths.device, non_blocking=True)
        with self._switch():
            return self._forward(tokens, lengths, *self._storage.inputs(self._longest))

    def addresses(self) -> tuple[int, ...]:
        """The memory that a `run` reads and writes; it changes when a row outgrows the storage, and with `prefill`."""
        return self._storage.addresses()

    def set_max_length(self, longest: int) -> None:
        """Tells the host what the longest row holds: after a `run`, or when longer ones have ended."""
        self._longest = longest

    @torch.inference_mode()
    def crop(self, lengths: Tensor, longest: int | None = None) -> None:
        """Forgets all but the first `lengths` [rows] tokens of each row.

        Args:
            longest: the largest of `lengths` where the caller knows it, so that attention reads no more than it must.
        """
        self.lengths.copy_(lengths)
        if longest is None and lengths.device.type == "cpu":
            longest = int(lengths.max())
        if longest is not None:
            self._longest = longest

    @torch.inference_mode()
    def select_rows(self, rows: list[int]) -> None:
        """Goes on with these rows only (indices into the present ones), in this order, within the same storage."""
        self._storage.keep(rows)

    def _read(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Any, Tensor]:
        """Logits, stock cache and lengths of prompts, read as transformers reads them."""
        device = input_table(self.model).weight.device
        self.prompt_lengths = [ids.shape[1]] * ids.shape[0]
        ids, mask = left_padded(ids.to(device), mask)
        rows, length = ids.shape
        positions = torch.arange(length, device=device).expand(rows, length)
        lengths = torch.full((rows,), length, device=device)
        if mask is not None:
            positions, lengths = (mask.cumsum(-1) - 1).clamp(min=0), mask.sum(-1)
            self.prompt_lengths = lengths.tolist()
        self._check(max(self.prompt_lengths))
        stock = DynamicCache(config=self._config)
        with self._switch():
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=stock,
                use_cache=True,
                return_dict=True,
                **self._last_only,
            )
        return out.logits[:, -1], stock, lengths

    def _reserve(self, tokens: int) -> None:
        """Room for that many tokens in every row."""
        self._check(tokens)
        if tokens > self._storage.capacity:
            self._storage.grow(tokens)

    def _check(self, tokens: int) -> None:
        if self._limit is not None and tokens > self._limit:
            raise ValueError(
                f"{self.name}: the sequence needs {tokens} positions, but this model has a "
                f"table of {self._limit}; shorten the prompt or lower max_new_tokens"
            )

    @property
    def bound(self) -> int:
        """Slots of a full layer that attention reads now."""
        return self._storage.bound(self._longest)

    @property
    def room(self) -> int:
        """Tokens that may still be appended before `bound` or the storage has to change, or a table ends."""
        room = self.bound or self._storage.capacity
        return (room if self._limit is None else min(room, self._limit)) - self._longest
