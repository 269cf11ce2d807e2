"""The mixture: a method resolved for the requests of a batch, in the slots that they are in.

From a user's words to the operation there are three forms. A `Method` has names, and parameters that may be functions
of the step. A `Mixture` has them as numbers and tensors on the device, where a captured step finds them. The
operations' `MixParams` are one call's structs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.row_weights import ExcludingRowWeights, RowWeights
from eft_ext.ops.method import Method, Number

CAPACITY = 1024  # steps that a table has room for at once; a longer one moves


class Mixture:
    """A method's weights for requests, and for the slots of a batch that they begin in and move to.

    Weights that are functions of the step lie in a table on the device, indexed by each row's own step, so that steps
    run ahead of the host, in graphs and in rounds of drafts. `sync` fills it as far as steps are launched.

    Args:
        method: parameters are numbers, tensors, or functions of the step. What `method.set` changes is taken up by
            the next `sync`.
        requests: rows of the whole batch.
        copies: how often each prompt stands in it.
        slots: rows at a time.
        device: where the logits meet.

    Attributes:
        is_scheduled: weights are functions of the step.
        changed: `method.set` was called after the start.

    Raises:
        ValueError: a parameter has another number of values than there are prompts or rows.
    """

    def __init__(
        self, method: Method, requests: int, *, copies: int = 1, slots: int | None = None, device: Any = "cpu"
    ) -> None:
        self._request_of = [0] * (requests if slots is None else slots)
        self._retired: list[Any] = []  # memory that captured graphs still point to
        self._place(torch.device(device))
        self.start(method, requests, copies)

    @torch.inference_mode()
    def _place(self, device: torch.device) -> None:
        self.device = device
        self._requests_on_device = torch.zeros(len(self._request_of), dtype=torch.int64, device=device)
        self._table = torch.empty(0, 0, 0, device=device)  # fp32 [steps, numbers, requests, or 1 for all]
        self._of_slots: RowWeights | None = None

    def to(self, device: torch.device) -> None:
        """Brings all of it to another device."""
        if device != self.device:
            self._place(device)
            self._take()

    def start(self, method: Method, requests: int, copies: int = 1) -> None:
        """Another method for the requests to come, in slots that stay where they are."""
        self.method, self._requests, self._copies, self.changed = method, requests, copies, False
        self._request_of = [0] * len(self._request_of)  # those before may have been more
        self._take()

    @property
    def excludes(self) -> bool:
        """True where the method excludes tokens by the models' logits."""
        return isinstance(self._of_requests, ExcludingRowWeights)

    @property
    def scalars(self) -> tuple[Any, ...]:
        """The numbers that a prepared or captured step holds of it; "table" where they are looked up."""
        if self.is_scheduled or self._of_slots is None:
            fixed = (self._of_requests.names, self.method.special_tokens)
            return (type(self.method), "table", *fixed, *(self._of_requests.settings or ())[1:])
        return (type(self.method), *self._of_slots.scalars)

    @torch.inference_mode()
    def _take(self) -> None:
        """The method's parameters as they are now."""
        self._taken, self.is_scheduled = self.method.parameters, self.method.is_scheduled
        if self.is_scheduled:
            self._filled = 0
            self._fill(1)
            return
        self._of_requests = self._resolved(0)
        slots = len(self._request_of)
        new = self._of_requests.with_tensors(lambda value: value.new_zeros(slots))
        if self._of_slots is None or self._of_slots.scalars != new.scalars:
            self._of_slots = new  # otherwise a captured step finds them where they were
        self._copy(self._request_of, range(slots))

    def _resolved(self, step: int) -> RowWeights:
        """Numbers and tensors [requests] after `step` new tokens."""
        now = for_rows(self.method.at(step), self._requests, copies=self._copies, device=self.device)
        found = (now.models, now.weights(), now.conservative(), now.special_tokens)
        return RowWeights(*found) if type(now).prepare is Method.prepare else ExcludingRowWeights(*found, now)

    def sync(self, through: int) -> bool:
        """Before a step is launched in which rows draw their token number `through` at most (from 0).

        Takes up what `method.set` has changed, and fills the table. Returns True if the parameters were changed.
        """
        changed = self._taken is not self.method.parameters
        if changed:
            self.changed = True
            self._retired.append((self._of_slots, self._table))
            self._take()
        if self.is_scheduled and self._filled <= through:
            self._fill(through + 1)
        return changed

    @torch.inference_mode()
    def _fill(self, end: int) -> None:
        """Fills the table up to step `end`."""
        found = [self._resolved(step) for step in range(self._filled, end)]
        self._of_requests = found[-1]
        numbers = [one.numbers for one in found]
        wide = any(isinstance(value, Tensor) for row in numbers for value in row)
        if wide:
            new = torch.stack([_column(row, self._requests, self.device) for row in numbers])
        else:
            new = torch.tensor(numbers, dtype=torch.float32, device="cpu")[..., None]
        old = self._table
        fits = old.shape[1] == new.shape[1] and old.shape[2] in (new.shape[2], self._requests)
        if len(old) < end or not fits:
            requests = max(new.shape[2], old.shape[2] if self._filled else 1)
            self._table = torch.zeros(max(CAPACITY, 2 * end), new.shape[1], requests, device=self.device)
            if self._filled:
                self._table[: self._filled] = old[: self._filled]
            self._retired.append(old)
        self._table[self._filled : end] = new.to(self.device, non_blocking=True)
        self._filled = end

    def addresses(self) -> tuple[Any, ...]:
        """Changes with all that a captured step holds of it."""
        tensors = [self._requests_on_device, self._table]
        if not self.is_scheduled and self._of_slots is not None:
            tensors = [value for value in self._of_slots.numbers if isinstance(value, Tensor)]
        return (*self.scalars, *(x.data_ptr() for x in tensors))

    def requests(self, rows: int) -> list[int]:
        """Numbers of the requests in the first slots."""
        return self._request_of[:rows]

    def first(self, rows: int) -> RowWeights:
        """Weights of the first `rows` slots, at addresses that stay; not where `is_scheduled`."""
        assert self._of_slots is not None
        return self._of_slots.with_tensors(lambda value: value[:rows])

    def at(self, steps: Tensor, slots: Tensor | None = None) -> RowWeights:
        """Weights of rows at their own steps: numbers, or tensors of the shape of `steps`, [rows] or [rows, n].

        Args:
            slots: which slots the rows are; the first ones if None.
        """
        rows = slice(len(steps)) if slots is None else slots
        if not self.is_scheduled:
            assert self._of_slots is not None
            few = self._of_slots.with_tensors(lambda value: value[rows])
            return few if steps.ndim == 1 else few.with_tensors(lambda value: value[:, None].expand(steps.shape))
        steps = steps.clamp(max=len(self._table) - 1)  # behind a row's end no draw counts
        if self._table.shape[2] == 1:
            found = self._table[:, :, 0][steps]  # [*steps, numbers]
        else:
            requests = self._requests_on_device[rows]
            found = self._table[steps, :, requests if steps.ndim == 1 else requests[:, None]]
        columns = iter(found.unbind(-1))
        return self._of_requests.mapped(lambda name, value: next(columns))

    def admit(self, slots: Sequence[int], requests: Sequence[int]) -> None:
        """Requests, by number, that begin in these slots."""
        for slot, request in zip(slots, requests, strict=True):
            self._request_of[slot] = request
        self._copy(requests, slots)

    def move(self, source: list[int], target: list[int]) -> None:
        """Slots `source` to where `target` says."""
        self.admit(target, [self._request_of[slot] for slot in source])

    @torch.inference_mode()
    def _copy(self, requests: Sequence[int], slots: Sequence[int]) -> None:
        at, to = (torch.tensor(list(places), device=self.device) for places in (requests, slots))
        self._requests_on_device[to] = at
        if self.is_scheduled or self._of_slots is None:
            return
        for given, stored in zip(self._of_requests.numbers, self._of_slots.numbers, strict=True):
            if isinstance(stored, Tensor) and isinstance(given, Tensor):
                stored[to] = given[at]


def _column(numbers: Sequence[Number], requests: int, device: torch.device) -> Tensor:
    """The numbers of one step, fp32 [numbers, requests]."""
    each = (torch.as_tensor(x, dtype=torch.float32, device=device) for x in numbers)
    return torch.stack([x.expand(requests) for x in each])


def for_rows(method: Method, rows: int, *, copies: int = 1, device: Any = None) -> Method:
    """The method with tensors [rows] in place of lists and tensors; functions of the step stay.

    Args:
        copies: how often each prompt stands among the rows.
        device: where tensors go; None leaves them.

    Raises:
        ValueError: a parameter has another number of values than there are prompts or rows.
    """

    def own(name: str, value: Any) -> Any:
        value = spread(name, value, rows, copies)
        return value.to(device) if isinstance(value, Tensor) and device is not None else value

    return method.mapped(own)


def spread(name: str, value: Any, rows: int, copies: int) -> Any:
    """A number stays as it is; a tensor becomes one of [rows].

    Raises ValueError unless there is one value per prompt or one per returned sequence.
    """
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0:
        return value.expand(rows).contiguous()
    if value.ndim == 1 and copies > 1 and value.shape[0] == rows // copies:
        return value.repeat_interleave(copies)
    if value.shape != (rows,):
        expected = f"{rows} values" if copies == 1 else f"{rows // copies} or {rows} values"
        raise ValueError(f"{name}: expected a number or {expected}, one per row, got shape {list(value.shape)}")
    return value
