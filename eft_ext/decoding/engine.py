"""The decoding loop: a batch of rows, one captured step at a time, the host reading results some steps late."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from eft_ext.decoding.device import one_after_another
from eft_ext.decoding.feeder import Feeder
from eft_ext.decoding.readback import Readback
from eft_ext.decoding.state import INVALID, NOTHING, State

Prompt = tuple[Tensor, Tensor | None]  # ids and mask [rows, length]


class Draw(Protocol):
    """How a token is drawn from the models' logits [rows, vocab_k]; options may differ from row to row.

    Attributes:
        changed: whether it no longer has the options that it was made with.
    """

    changed: bool

    def __call__(
        self, logits: Sequence[Tensor], seeds: Tensor, steps: Tensor, out: Tensor, slots: Tensor | None = None
    ) -> None:
        """Writes tokens [rows] into `out`, −1 for an invalid row.

        Args:
            seeds, steps: key and position of each row's random stream.
            slots: which slots the rows are; the first ones if None.
        """

    def admit(self, slots: list[int], jobs: Sequence[Job]) -> None:
        """Options of the jobs that begin in these slots."""

    def renew(self, options: Any) -> None:
        """Other options for the jobs of the next start."""

    def move(self, source: list[int], target: list[int]) -> None:
        """Options of slots `source` to where `target` says."""


@dataclass(frozen=True, eq=False)
class Job:
    """One row: its number, the key of its random stream, and how many tokens it may have at most."""

    number: int
    seed: int
    budget: int


class News(NamedTuple):
    """A token of one job, whether it is the last, and how it came about (`decoding.Mark`)."""

    job: int
    token: int
    last: bool
    mark: int = 0


class InvalidRow(RuntimeError):
    """A row's logits hold NaN or +inf, or every token is excluded.

    Attributes:
        job: its number.
        tokens: those it drew before.
        logits: of the models, [vocab_k] each; None where the device has gone on.
    """

    def __init__(self, job: int, tokens: list[int], logits: list[Tensor] | None) -> None:
        super().__init__(f"row {job}, new token {len(tokens)}: no token can be drawn")
        self.job, self.tokens, self.logits = job, tokens, logits


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
        feeders: Sequence[Feeder],
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
        self._room = 0
        self._chunk: Callable[[int], int] | None = getattr(self._step, "chunk", None)
        self._slots: list[Job | None] = []  # what each row of the batch works on
        self._tokens: dict[int, list[int]] = {}  # of the jobs that go on
        self._drawn: dict[int, int] = {}  # tokens of theirs that are under way or read
        self._prompts: dict[int, list[int]] = {}  # how long their prompts are for each model
        self._logits: tuple[list[Tensor], list[int]] = ([], [])  # of the last step, and in which slots its rows are
        self._pending: deque[tuple[int, list[Job | None]]] = deque()  # steps that the host has not read yet

    @torch.inference_mode()
    def start(self, jobs: Sequence[Job], prompts: Sequence[Prompt]) -> None:
        """Reads the first prompts: for each model ids and mask [jobs, length]. As many slots are made.

        Storage of an earlier start is used again where it suffices, and so are the graphs that refer to it.
        """
        for known in (self._tokens, self._drawn, self._prompts, self._pending):
            known.clear()
        logits = [feeder.prefill(*prompt) for feeder, prompt in zip(self.feeders, prompts, strict=True)]
        self._room = len(jobs)
        if self.state is None or self.state.room < self._room:
            self.state = self._new_state(self._room, max(self._ring, self.ahead + 2), logits[0].device)
            self._readback = Readback(self.state.ring)
        self.state.restart(self._room)
        self.state.attach([feeder.stored_lengths for feeder in self.feeders])
        self._slots = [None] * self._room
        with on(self.state.device):
            self._begin(list(range(len(jobs))), jobs, logits)

    def _new_state(self, rows: int, slots: int, device: torch.device) -> State:
        return State(rows, self._ends, slots, device)

    @property
    def free(self) -> int:
        """Slots whose job has ended."""
        return self._room - sum(job is not None for job in self._slots)

    @torch.inference_mode()
    def admit(self, jobs: Sequence[Job], prompts: Sequence[Prompt]) -> None:
        """Reads prompts of at most `free` further jobs, as `start` does."""
        self._slots += [None] * (self._room - len(self._slots))
        slots = [slot for slot, job in enumerate(self._slots) if job is None][: len(jobs)]
        self._use(self._room, list(range(self._room)))
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
        """What a graph of the step depends on beside addresses: rows, and slots that attention reads."""
        return (self.state.rows, *(feeder.bound for feeder in self.feeders))

    def addresses(self) -> tuple[int, ...]:
        """Of everything that the step reads and writes from one call to the next."""
        return (*self.state.addresses(), *(a for feeder in self.feeders for a in feeder.addresses()))

    def forget_logits(self) -> None:
        """What a capture leaves in `step` was never computed."""
        self._logits = ([], [])

    def run(self) -> Iterator[list[News]]:
        """What each step brings, until every job has ended; jobs may be admitted in between.

        Raises:
            InvalidRow: naming the job.
        """
        while self._pending or self._needed():
            with torch.inference_mode(), on(self.state.device):
                self._launch()
            yield self._read()

    def _launch(self) -> None:
        """Steps until the device is `ahead` steps ahead of what has been read, or nothing is left to do."""
        self._compact()
        while len(self._pending) <= self.ahead and self._needed():
            for feeder in self.feeders:
                feeder.reserve(1)
                feeder.expect(feeder.longest + 1)
            ran = self._chunk(self._limit()) if self._chunk is not None else 1
            if self._chunk is None:
                self._step()
            for _ in range(ran):
                self._sent(list(self._slots))
            for feeder in self.feeders if ran > 1 else ():
                feeder.expect(feeder.longest + ran - 1)

    def _limit(self) -> int:
        """Steps that may be launched at once: budgets, what attention reads, and the ring have room for them."""
        left = max(job.budget - self._drawn[job.number] for job in self._slots if job is not None)
        room = 1 + min(feeder.room for feeder in self.feeders)
        return max(1, min(left, room, len(self.state.ring) - len(self._pending) - 1))

    def _needed(self) -> bool:
        """Whether, as far as the host knows, some row goes on after the steps that are under way."""
        return any(job is not None and self._drawn[job.number] < job.budget for job in self._slots)

    def _sent(self, jobs: list[Job | None]) -> None:
        """A step has been launched in which these jobs drew a token, unless they had ended."""
        self._pending.append((self._readback.send(), jobs))
        for job in jobs:
            if job is not None:
                self._drawn[job.number] += 1

    def _read(self) -> list[News]:
        ticket, jobs = self._pending.popleft()
        news = []
        for job, token in zip(jobs, self._readback.receive(ticket), strict=False):
            if job is None or token == NOTHING:
                continue
            said = self._tokens[job.number]
            if token == INVALID:
                raise InvalidRow(job.number, said, self._logits_of(jobs.index(job)))
            said.append(token)
            last = token in self._ends or len(said) >= job.budget
            news.append(News(job.number, token, last))
            if last:
                self._ended(job)
        if news and any(entry.last for entry in news):
            self._expect()
        return news

    def _ended(self, job: Job) -> None:
        del self._tokens[job.number], self._prompts[job.number]
        self._slots[self._slots.index(job)] = None  # it may have moved since

    def _logits_of(self, slot: int) -> list[Tensor] | None:
        """What an invalid row was drawn from, if the step just read is the last that ran."""
        logits, slots = self._logits
        if self._pending or not logits:
            return None
        row = slots.index(slot) if slots else slot
        return [x[row] for x in logits]

    def _expect(self) -> None:
        """Tells the feeders how long the rows that go on are, so that attention reads no more than it must."""
        jobs = [job for job in self._slots if job is not None]
        for k, feeder in enumerate(self.feeders if jobs else ()):
            # The first token of a row is drawn from its prompt: one fewer has been read than drawn.
            feeder.expect(max(self._prompts[job.number][k] + self._drawn[job.number] - 1 for job in jobs))

    def _compact(self) -> None:
        """Lets the last rows take the places of those that ended, where a smaller batch then suffices."""
        rows = [slot for slot, job in enumerate(self._slots) if job is not None]
        width = self._bucket(len(rows))
        if not rows or width >= len(self._slots):
            return
        source = [slot for slot in rows if slot >= width]
        target = [slot for slot in range(width) if self._slots[slot] is None][: len(source)]
        order = list(range(width))
        for at, to in zip(source, target, strict=True):
            order[to] = at
        self._slots = [self._slots[slot] for slot in order]
        if source:
            self.state.move(source, target)
            self.draw.move(source, target)
        self._use(width, order)

    def _use(self, width: int, order: list[int]) -> None:
        for feeder in self.feeders:
            feeder.keep(order)
        self.state.use(width)

    def _begin(self, slots: list[int], jobs: Sequence[Job], logits: Sequence[Tensor]) -> None:
        """The first draw of jobs, from their prompts' logits, while the other rows stand still."""
        state, everywhere = self.state, len(slots) == len(self._slots)
        for row, (slot, job) in enumerate(zip(slots, jobs, strict=True)):
            self._slots[slot] = job
            self._tokens[job.number], self._drawn[job.number] = [], 0
            self._prompts[job.number] = [feeder.prompt_lengths[row] for feeder in self.feeders]
        self.draw.admit(slots, jobs)
        others = state.admit(slots, [job.seed for job in jobs], [job.budget for job in jobs])
        rows = None if everywhere else torch.tensor(slots, device=state.device)
        given = together(logits, state.device)
        self._logits = given, slots
        if rows is None:
            self.draw(given, state.seeds, state.steps, state.drawn)
        else:
            drawn = torch.empty_like(state.drawn[rows])
            self.draw(given, state.seeds[rows], state.steps[rows], drawn, rows)
            state.drawn[rows] = drawn
        state.tail(fed=False)
        state.alive += others
        new = {job.number for job in jobs}
        self._sent([job if job is not None and job.number in new else None for job in self._slots])
        self._expect()


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a CUDA device the current one, which streams, events and graphs go by."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def together(logits: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The logits on one device, in a type that the fused step takes."""
    return [(x.float() if x.dtype == torch.float64 else x).to(device, non_blocking=True) for x in logits]
