"""The decoding loop: a batch of rows, one captured step at a time, the host reading results some steps late."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.batch import Batch, Row
from eft_ext.decoding.capture.cuda_device import one_after_another
from eft_ext.decoding.readback import Readback
from eft_ext.decoding.requests import Draw, InvalidRow, Prompt, Request, TokenOutput
from eft_ext.decoding.state import INVALID, NOTHING, State
from eft_ext.decoding.static_cache.model import StaticCacheModel


class Engine:
    """Decodes jobs in a batch of slots, in which rows begin, end, and are followed by others.

        engine = Engine(feeders, draw, ends=[eos])
        engine.start(jobs, prompts)
        for news in engine.run():                 # one step
            for job, token, last, _ in news: ...

    Args:
        feeders: one for each model.
        draw: what makes tokens of logits.
        ends: tokens that end a row.
        ahead: steps that the device may be ahead of the host. What a row draws after its end is thrown away, so no
            result depends on it.
        ring: steps whose tokens the device keeps until they are read, at least `ahead` + 2.
        bucket: rows to run where so many are active, at least as many; the smaller batch takes over when it fits.
        stepper: replaces `step` by something faster that does the same, such as graphs. Its `chunk(limit)`, if there
            is one, runs up to `limit` steps and says how many.
        parallel: runs the models of a step.
    """

    def __init__(
        self,
        feeders: Sequence[StaticCacheModel],
        draw: Draw,
        ends: Sequence[int],
        *,
        ahead: int = 0,
        ring: int = 0,
        bucket: Callable[[int], int] = int,
        stepper: Callable[[Engine], Callable[[], None]] | None = None,
        parallel: Callable[[Sequence[Callable[[], Tensor]]], list[Tensor]] = one_after_another,
    ) -> None:
        self._parallel, self._ring = parallel, ring
        self.feeders, self.draw, self.ahead = list(feeders), draw, ahead
        self._ends, self._bucket = list(ends), bucket
        self._step = self.step if stepper is None else stepper(self)
        self.state: Any = None  # a `State` from the first `start` on
        self._chunk: Callable[[int], int] | None = getattr(self._step, "chunk", None)
        self._batch = Batch(0)
        self._logits: tuple[list[Tensor], list[int]] = ([], [])  # of the last step, and in which slots its rows are
        self._pending: deque[tuple[int, list[Row | None]]] = deque()  # steps that the host has not read yet

    @torch.inference_mode()
    def start(self, jobs: Sequence[Request], prompts: Sequence[Prompt]) -> None:
        """Reads the first prompts: for each model ids and mask [jobs, length]. As many slots are made.

        Storage of an earlier start is used again where it suffices, and so are the graphs that refer to it.
        """
        self._pending.clear()
        logits = [feeder.prefill(*prompt) for feeder, prompt in zip(self.feeders, prompts, strict=True)]
        room = len(jobs)
        self._batch = Batch(room)
        if self.state is None or self.state.room < room:
            self.state = self._new_state(room, max(self._ring, self.ahead + 2), logits[0].device)
            self._readback = Readback(self.state.ring)
        self.state.restart(room)
        self.state.attach([feeder.stored_lengths for feeder in self.feeders])
        with on(self.state.device):
            self._begin(list(range(room)), jobs, logits)

    def _new_state(self, rows: int, slots: int, device: torch.device) -> State:
        return State(rows, self._ends, slots, device)

    @property
    def free(self) -> int:
        """Slots whose job has ended."""
        return self._batch.free

    @torch.inference_mode()
    def admit(self, jobs: Sequence[Request], prompts: Sequence[Prompt]) -> None:
        """Reads prompts of at most `free` further jobs, as `start` does."""
        slots = self._batch.widen()[: len(jobs)]
        self._use(list(range(self._batch.room)))
        rows = torch.tensor(slots)
        logits = [feeder.admit(rows, *prompt) for feeder, prompt in zip(self.feeders, prompts, strict=True)]
        with on(self.state.device):
            self._begin(slots, jobs, logits)

    def step(self) -> None:
        """All models, one draw, and the tail: what a graph captures."""
        state = self.state
        logits = self._parallel([partial(feeder.run, state.tokens) for feeder in self.feeders])
        self._logits = together([x[:, -1] for x in logits], state.device), []
        self.draw(self._logits[0], state.seeds, state.steps, state.drawn)
        state.tail()

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes that a graph of the step depends on, beside addresses: rows, and slots that attention reads."""
        return (self.state.rows, *(feeder.bound for feeder in self.feeders))

    def addresses(self) -> tuple[int, ...]:
        """Addresses of everything that the step reads and writes from one call to the next."""
        return (*self.state.addresses(), *(a for feeder in self.feeders for a in feeder.addresses()))

    def forget_logits(self) -> None:
        """Drops what a capture leaves in `step`, which was never computed."""
        self._logits = ([], [])

    def run(self) -> Iterator[list[TokenOutput]]:
        """Yields the news of each step, until every job has ended; jobs may be admitted in between.

        Raises:
            InvalidRow: naming the job.
        """
        while self._pending or self._batch.needed:
            with torch.inference_mode(), on(self.state.device):
                self._launch()
            yield self._read()

    def _launch(self) -> None:
        """Steps until the device is `ahead` steps ahead of what has been read, or nothing is left to do."""
        self._compact()
        while len(self._pending) <= self.ahead and self._batch.needed:
            if self._pending and any(feeder.longest == feeder.limit for feeder in self.feeders):
                return  # at the end of a table, unless what is read first says that the longest row has ended
            for feeder in self.feeders:
                feeder.reserve(1)
                feeder.set_max_length(feeder.longest + 1)
            ran = self._chunk(self._limit()) if self._chunk is not None else 1
            if self._chunk is None:
                self._step()
            for _ in range(ran):
                self._sent(list(self._batch.slots))
            for feeder in self.feeders if ran > 1 else ():
                feeder.set_max_length(feeder.longest + ran - 1)

    def _limit(self) -> int:
        """Steps that may be launched at once: budgets, what attention reads, and the ring have room for them."""
        left = max(row.left for row in self._batch.rows)
        room = 1 + min(feeder.room for feeder in self.feeders)
        return max(1, min(left, room, len(self.state.ring) - len(self._pending) - 1))

    def _sent(self, rows: list[Row | None]) -> None:
        """A step has been launched in which these rows drew a token, unless they had ended."""
        self._pending.append((self._readback.send(), rows))
        for row in rows:
            if row is not None:
                row.drawn += 1

    def _read(self) -> list[TokenOutput]:
        ticket, rows = self._pending.popleft()
        news = []
        for row, token in zip(rows, self._readback.receive(ticket), strict=False):
            if row is None or token == NOTHING:
                continue
            if token == INVALID:
                raise InvalidRow(row.job.number, row.tokens, self._logits_of(rows.index(row)))
            news.append(self._said(row, token))
        if any(entry.last for entry in news):
            self._expect()
        return news

    def _said(self, row: Row, token: int, mark: int = 0) -> TokenOutput:
        """The next token of a row, which may be its last."""
        row.tokens.append(token)
        last = token in self._ends or len(row.tokens) >= row.job.budget
        if last:
            self._batch.end(row)
        return TokenOutput(row.job.number, token, last, mark)

    def _logits_of(self, slot: int) -> list[Tensor] | None:
        """The logits that an invalid row was drawn from, if the step just read is the last that ran."""
        logits, slots = self._logits
        if self._pending or not logits:
            return None
        row = slots.index(slot) if slots else slot
        return [x[row] for x in logits]

    def _expect(self) -> None:
        """Tells the feeders how long the rows that go on are, so that attention reads no more than it must."""
        rows = self._batch.rows
        for k, feeder in enumerate(self.feeders if rows else ()):
            # The first token of a row is drawn from its prompt: one fewer has been read than drawn.
            feeder.set_max_length(max(row.prompts[k] + row.drawn - 1 for row in rows))

    def _compact(self) -> None:
        """Goes on with fewer slots where these suffice."""
        going = len(self._batch.rows)
        width = self._bucket(going)
        if not going or width >= len(self._batch.slots):
            return
        source, target, order = self._batch.narrow(width)
        if source:
            self.state.move(source, target)
            self.draw.move(source, target)
        self._use(order)

    def _use(self, order: list[int]) -> None:
        """Runs as many slots as `order` names, each being that former one in the caches."""
        for feeder in self.feeders:
            feeder.select_rows(order)
        self.state.use(len(order))

    def _begin(self, slots: list[int], jobs: Sequence[Request], logits: Sequence[Tensor]) -> None:
        """The first draw of jobs, from their prompts' logits, while the other rows stand still."""
        state = self.state
        lengths = zip(*(feeder.prompt_lengths for feeder in self.feeders), strict=True)
        new = self._batch.begin(slots, [Row(job, list(own)) for job, own in zip(jobs, lengths, strict=True)])
        self.draw.admit(slots, jobs)
        others = state.admit(slots, [job.seed for job in jobs], [job.budget for job in jobs])
        given = together(logits, state.device)
        self._logits = given, slots
        if len(slots) == len(new):
            self.draw(given, state.seeds, state.steps, state.drawn)
        else:
            rows = torch.tensor(slots, device=state.device)
            drawn = torch.empty_like(state.drawn[rows])
            self.draw(given, state.seeds[rows], state.steps[rows], drawn, rows)
            state.drawn[rows] = drawn
        state.tail(fed=False)
        state.alive += others
        self._sent(new)
        self._expect()


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a CUDA device the current one, which streams, events and graphs go by."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def together(logits: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The logits on one device, in a type that the fused step takes."""
    return [(x.float() if x.dtype == torch.float64 else x).to(device, non_blocking=True) for x in logits]
