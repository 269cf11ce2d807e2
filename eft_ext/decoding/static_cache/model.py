"""One model decoding a ragged batch from static caches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.cached_model import check_limit
from eft_ext.decoding.capture.traced_forward import TracedForward
from eft_ext.decoding.model_facts import input_table, layer_windows, learned_positions
from eft_ext.decoding.padding import left_padded, lengths_of, read_prompts
from eft_ext.decoding.static_cache.forward import Forward
from eft_ext.decoding.static_cache.layers import SLACK
from eft_ext.decoding.static_cache.native_view import native_view
from eft_ext.decoding.static_cache.storage import Storage
from eft_ext.decoding.static_cache.support import unsupported


class StaticCacheModel:
    """A model on static caches: it reads any number of tokens at a time, each row at its own position.

        static = StaticCacheModel(model)
        logits = static.prefill(ids, mask)        # [rows, vocab], after each prompt
        logits = static.forward(tokens)           # tokens [rows, n] -> [rows, n, vocab]
        static.crop(static.lengths - 2)           # forgets each row's last two tokens

    Only `prefill` and `admit` wait for the device. The model is not changed. Logits and lengths are inference
    tensors: read them, or clone them before changing them in place.

    Args:
        model: a causal language model of transformers for which `unsupported(model)` is None.
        name: for messages.
        capacity: tokens a row is expected to grow to, prompt included; the cache grows if there are more.
        checked: check `unsupported(model)` first.
        switch: makes the context in which the model runs, such as an adapter being off.
        storage: what the rows lie in, if other models' rows lie there too (`JointPass`).

    Attributes:
        prompt_lengths: the number of tokens in each row of the last prompts.
        limit: the number of tokens that a row may hold, if the model has a table of positions.
        longest: an upper bound of `lengths`, on the host.

    Raises:
        ValueError: the model cannot be decoded from static caches.
    """

    can_crop = True

    def __init__(
        self,
        model: Any,
        *,
        name: str = "model",
        capacity: int = 0,
        checked: bool = True,
        switch: Callable[[], AbstractContextManager[Any]] = nullcontext,
        storage: Storage | None = None,
    ) -> None:
        reason = unsupported(model) if checked else None
        if reason is not None:
            raise ValueError(f"{name}: {type(model).__name__} {reason}")
        self.model, self.name = model, name
        self._switch = switch
        self._wanted = capacity
        windows = layer_windows(model.config.get_text_config(decoder=True))
        self._storage = Storage(windows) if storage is None else storage
        self._view = native_view(model)
        self._forward = TracedForward(Forward(self._view, windows), model)
        self.limit = learned_positions(model)
        self.longest = 0  # no row is longer; known without asking the device

    @property
    def lengths(self) -> Tensor:
        """The number of tokens in each row, int64 [rows] on the model's device; `forward` changes it in place."""
        return self._storage.lengths[: self._storage.rows]

    @property
    def stored_lengths(self) -> Tensor:
        """`lengths` of all rows that there is room for, which stay at their address until the next `prefill`."""
        return self._storage.lengths

    @property
    def is_plain(self) -> bool:
        """True where a pass calls no Python but the modules' own: no hooks, nothing replaced."""
        return self._view is not self.model

    @property
    def plain_because(self) -> str | None:
        """Why the forward pass is not traced, the end of a sentence; None where it is, or will be."""
        return self._forward.reason

    @torch.inference_mode()
    def prefill(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Starts from scratch with prompts [rows, length], padded where `mask` (same shape) is 0.

        Returns the logits after each prompt, [rows, vocab].
        """
        logits, stock, lengths = self._read(ids, mask)
        self.longest = max(self.prompt_lengths)
        self._storage.start(stock, lengths, max(self.longest + 1, self._wanted), self._same_length)
        return logits

    def expand(self, capacity: int) -> None:
        """Tokens a row is expected to grow to after the next `prefill`, if more than before."""
        self._wanted = max(self._wanted, capacity)

    @torch.inference_mode()
    def admit(self, rows: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Replaces `rows` (indices) of the batch by other prompts; the other rows are not touched.

        Returns the logits after each of these prompts, [len(rows), vocab].
        """
        logits, stock, lengths = self._read(ids, mask)
        longest = max(self.prompt_lengths)
        self._reserve(longest)
        self.longest = max(self.longest, longest)
        self._storage.admit(rows, stock, lengths, self._same_length)
        return logits

    @torch.inference_mode()
    def forward(self, tokens: Tensor) -> Tensor:
        """Appends `tokens` [rows, n]; returns the logits after each, [rows, n, vocab].

        Raises ValueError if a row would outgrow a table of learned positions, or if n is above 64 and the model has
        sliding windows.
        """
        n = tokens.shape[1]
        if n > SLACK and self._storage.sliding:
            raise ValueError(f"tokens: expected at most {SLACK} at a time for a sliding window, got {n}")
        self.reserve(n)
        self.longest += n
        logits = self.run(tokens)
        self.lengths.add_(n)
        return logits

    def reserve(self, n: int) -> None:
        """Makes room for `n` more tokens in every row, so that `run` allocates no storage."""
        self._reserve(self.longest + n)

    def run(self, tokens: Tensor, skip: int = 0) -> Tensor:
        """`forward` without the host's part, after `reserve` and `set_max_length`: what a graph captures.

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
            return self._forward(tokens, lengths, *self._storage.inputs(self.longest))

    def addresses(self) -> tuple[int, ...]:
        """The memory that a `run` reads and writes; it changes when a row outgrows the storage, and with `prefill`."""
        return self._storage.addresses()

    def set_max_length(self, longest: int) -> None:
        """Tells the host what the longest row holds: after a `run`, or when longer ones have ended."""
        self.longest = longest

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
            self.longest = longest

    @torch.inference_mode()
    def select_rows(self, rows: list[int]) -> None:
        """Keeps these rows only (indices into the present ones), in this order, within the same storage."""
        self._storage.select_rows(rows)

    def _read(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Any, Tensor]:
        """Logits, stock cache and lengths of prompts, read as transformers reads them."""
        ids, mask = left_padded(ids.to(input_table(self.model).weight.device), mask)
        self.prompt_lengths = lengths_of(ids, mask)
        check_limit(self.name, max(self.prompt_lengths), self.limit)
        with self._switch():
            return read_prompts(self._view, ids, mask)

    @property
    def _same_length(self) -> int | None:
        """The length of the last prompts, where all are as long."""
        first = self.prompt_lengths[0]
        return first if len(set(self.prompt_lengths)) == 1 else None

    def _reserve(self, tokens: int) -> None:
        """Room for that many tokens in every row."""
        check_limit(self.name, tokens, self.limit)
        if tokens > self._storage.capacity:
            self._storage.grow(tokens)

    @property
    def bound(self) -> int:
        """Slots of a full layer that attention reads now."""
        return self._storage.bound(self.longest)

    @property
    def room(self) -> int:
        """Tokens that may still be appended before `bound` or the storage has to change, or a table ends."""
        room = self.bound or self._storage.capacity
        return (room if self.limit is None else min(room, self.limit)) - self.longest
