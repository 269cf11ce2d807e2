"""The decoding loop: admit requests, launch steps, read their tokens, end rows.

There is one, whoever drives it. The models may have any caches (`CachedModel`), the host may lag some steps behind the
device or read each before the next, a step may be a call, a graph or a loop on the device (`launcher`), and it may
bring one token or a round of drafts (`speculative.SpeculativeEngine`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

import torch
from torch import Tensor

from eft_ext.decoding.batch import Batch, Launched, Row, RowTokens
from eft_ext.decoding.cached_model import CachedModel, Joint
from eft_ext.decoding.placement import Parallel, on, one_after_another, together
from eft_ext.decoding.requests import InvalidRow, Prompt, Request, TokenOutput, source_of_token
from eft_ext.decoding.sampler import Sampler
from eft_ext.decoding.state import INVALID, Readback, State
from eft_ext.decoding.stepper import Stepper


class Engine(Stepper):
    """Decodes requests in a batch of slots, in which rows begin, end, and are followed by others.

        engine = Engine(models, sampler, eos_token_ids=[2])
        engine.start(requests, prompts)
        for outputs in engine.run():              # one step
            for number, token, last, source in outputs: ...

    Args:
        models: the mixture's, in its order.
        sampler: draws tokens from their logits.
        eos_token_ids: tokens that end a row.
        lag: steps that the device may be ahead of the host. Tokens sampled past EOS are discarded, so no
            result depends on it.
        ring: steps whose tokens the device keeps until they are read, at least `lag` + 2.
        bucket: rows to run where so many are active, at least as many; the smaller batch takes over when it fits.
        launcher: makes a faster `step` that does the same, such as graphs. Its `chunk(limit)`, if there is one, runs
            up to `limit` steps and returns their number.
        parallel: runs the models of a step.
        joint: passes that run several of the models at once.
    """

    def __init__(
        self,
        models: Sequence[CachedModel],
        sampler: Sampler,
        eos_token_ids: Sequence[int],
        *,
        lag: int = 0,
        ring: int = 0,
        bucket: Callable[[int], int] = int,
        launcher: Callable[[Stepper], Callable[[], None]] | None = None,
        parallel: Parallel = one_after_another,
        joint: Sequence[Joint] = (),
    ) -> None:
        super().__init__(models, sampler, parallel, joint)
        self._eos, self.lag, self._ring, self._bucket = list(eos_token_ids), lag, ring, bucket
        self._launch_step = self.step if launcher is None else launcher(self)
        self._chunk: Callable[[int], int] | None = getattr(self._launch_step, "chunk", None)
        self._batch = Batch(0)
        self._drafts = 0  # of the next step
        self._pending: deque[Launched] = deque()

    @torch.inference_mode()
    def start(self, requests: Sequence[Request], prompts: Sequence[Prompt]) -> None:
        """Reads the first prompts, for each model ids and mask [requests, length]. As many slots are made.

        Storage of an earlier start is used again where it suffices, and so are the graphs that refer to it.
        """
        self._pending.clear()
        logits = [model.prefill(*prompt) for model, prompt in zip(self.models, prompts, strict=True)]
        room = len(requests)
        self._batch = Batch(room)
        if self.state is None or self.state.room < room:
            self.state = self._new_state(room, max(self._ring, self.lag + 2), logits[0].device)
            self._readback = Readback(self.state.ring)
        self.sampler.mixture.to(self.state.device)
        self.state.restart(room)
        self.state.attach([x for model in self.models if (x := model.stored_lengths) is not None])
        with on(self.state.device):
            self._begin(list(range(room)), requests, logits)

    def _new_state(self, rows: int, slots: int, device: torch.device) -> State:
        return State(rows, self._eos, slots, device)

    @property
    def free(self) -> int:
        """Slots whose request has ended."""
        return self._batch.free

    @torch.inference_mode()
    def admit(self, requests: Sequence[Request], prompts: Sequence[Prompt]) -> None:
        """Reads prompts of at most `free` further requests, as `start` does."""
        slots = self._batch.widen()[: len(requests)]
        self._use(list(range(self._batch.room)))
        rows = torch.tensor(slots, device="cpu")
        logits = [model.admit(rows, *prompt) for model, prompt in zip(self.models, prompts, strict=True)]
        with on(self.state.device):
            self._begin(slots, requests, logits)

    @torch.inference_mode()
    def end(self, numbers: Sequence[int]) -> None:
        """Ends requests, by number, for a reason of the caller's. Tokens sampled past that are discarded."""
        slots = [self._batch.end(row) for row in self._batch.rows if row.request.number in numbers]
        if slots:
            self.state.end(slots)
            self._set_max_lengths()

    def run(self) -> Iterator[list[TokenOutput]]:
        """Yields the tokens of each step until every request has ended; some may be admitted or ended in between.

        Raises:
            InvalidRow: naming the request.
        """
        while self._pending or self._batch.needed:
            with torch.inference_mode(), on(self.state.device):
                self._launch()
            yield self._read()

    def _launch(self) -> None:
        """Steps until the device is `lag` steps ahead of what has been read, or nothing is left to do."""
        self._compact()
        while len(self._pending) <= self.lag and self._batch.needed:
            drafts = self._num_drafts()
            if drafts is None:
                return
            self._drafts = drafts
            for model in self.models:
                model.reserve(drafts + 1)
                model.set_max_length(model.longest + drafts + 1)
            limit = 1 if self._chunk is None else self._limit()
            self.sampler.sync(self._batch.last_draw(drafts + limit))
            self.forget_logits()  # a graph or a round of drafts leaves none, and an earlier step's blame no model
            time = perf_counter()
            ran = 1
            if self._chunk is None:
                self._launch_step()
            else:
                ran = self._chunk(limit)
            for _ in range(ran):
                self._launched(list(self._batch.slots), time)
            for model in self.models if ran > 1 else ():
                model.set_max_length(model.longest + ran - 1)

    def _num_drafts(self) -> int | None:
        """Drafts of the next step; None where a step under way has to be read first."""
        if self._pending and any(model.longest == model.limit for model in self.models):
            return None  # at the end of a table, unless what is read says that the longest row has ended
        return 0

    def _limit(self) -> int:
        """Steps that may be launched at once: rows, what attention reads, and the ring have room for them."""
        left = max(row.left for row in self._batch.rows)
        room = 1 + min(model.room for model in self.models)
        return max(1, min(left, room, len(self.state.ring) - len(self._pending) - 1))

    def _launched(self, rows: list[Row | None], time: float) -> None:
        """A step has been launched in which these rows draw, unless they had ended."""
        self._pending.append(Launched(self._readback.send(), rows, self._drafts, time))
        for row in rows:
            if row is not None:
                row.at_least += 1
                row.at_most += self._drafts + 1

    def _read(self) -> list[TokenOutput]:
        step = self._pending.popleft()
        outputs: list[TokenOutput] = []
        found: list[tuple[Row, RowTokens]] = []
        for row, new in zip(step.rows, self._readback.receive(step.ticket), strict=False):
            if row is None or row.ended or not new.tokens:
                continue
            found.append((row, new))
            row.at_least += len(new.tokens) - 1
            row.at_most -= step.drafts + 1 - len(new.tokens)
            for place, token in enumerate(new.tokens):
                if token == INVALID:
                    logits = None if self._pending else self.logits_of(step.rows.index(row))
                    raise InvalidRow(row.request.number, row.tokens, logits)
                source = source_of_token(place, new.accepted, new.drafted)
                outputs.append(self._output(row, token, source))
        self._observe(step, found)
        if any(output.last for output in outputs):
            self._set_max_lengths()
        return outputs

    def _observe(self, step: Launched, found: list[tuple[Row, RowTokens]]) -> None:
        """Hears what a step has new."""

    def _output(self, row: Row, token: int, source: int) -> TokenOutput:
        """The next token of a row, which may be its last."""
        row.tokens.append(token)
        last = token in self._eos or len(row.tokens) >= row.request.max_new_tokens
        if last:
            self._batch.end(row)
        return TokenOutput(row.request.number, token, last, source)

    def _set_max_lengths(self) -> None:
        """Tells the models how long the rows that go on may be, so that attention reads no more than it must."""
        rows = self._batch.rows
        for k, model in enumerate(self.models if rows else ()):
            model.set_max_length(max(row.held(k) for row in rows))

    def _compact(self) -> None:
        """Goes on with fewer slots where these suffice."""
        going = len(self._batch.rows)
        width = self._bucket(going)
        if not going or width >= len(self._batch.slots):
            return
        source, target, order = self._batch.narrow(width)
        if source:
            self.state.move(source, target)
            self.sampler.move(source, target)
        self._use(order)

    def _use(self, order: list[int]) -> None:
        """Runs as many slots as `order` names, each being that former one in the caches."""
        for model in self.models:
            model.select_rows(order)
        self.state.use(len(order))

    def _begin(self, slots: list[int], requests: Sequence[Request], logits: Sequence[Tensor]) -> None:
        """The first draw of requests, from their prompts' logits, while the other rows stand still."""
        state, self._drafts, time = self.state, 0, perf_counter()
        lengths = zip(*(model.prompt_lengths for model in self.models), strict=True)
        rows = [Row(request, list(own)) for request, own in zip(requests, lengths, strict=True)]
        new = self._batch.begin(slots, rows)
        self.sampler.admit(slots, requests)
        self.sampler.sync(0)
        seeds, most = [r.seed for r in requests], [r.max_new_tokens for r in requests]
        others = state.admit(slots, seeds, most)
        given = together(logits, state.device)
        self._logits = given, slots
        if len(slots) == len(new):
            self.sampler(given, state.seeds, state.steps, state.next_tokens)
        else:
            at = torch.tensor(slots, device=state.device)
            drawn = torch.empty_like(state.next_tokens[at])
            self.sampler(given, state.seeds[at], state.steps[at], drawn, at)
            state.next_tokens[at] = drawn
        state.advance(read=False)
        state.active += others
        self._launched(new, time)
        self._set_max_lengths()
