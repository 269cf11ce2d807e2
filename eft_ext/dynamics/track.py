"""Recording a training run: what happens to every probe, step after step."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from operator import length_hint
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from eft_ext.dynamics.context import check_texts
from eft_ext.dynamics.evaluation import precision_of
from eft_ext.dynamics.measure import as_columns, measure
from eft_ext.dynamics.probes import ProbeSet
from eft_ext.dynamics.responses import check_batch_size
from eft_ext.dynamics.store import Store

T = TypeVar("T")
_log = logging.getLogger(__name__)
_SCALARS = ("log_prob", "argmax_log_prob_mean", "entropy_mean")
Schedule = int | Collection[int]


class Tracker:
    """Measures probes under a model in training and writes each record at once.

    Args:
        probes, tokenizer: the responses that are watched, and the model's tokenizer.
        path: folder of the recording. `Recording(path)` reads it.
        batch_size: probes in one forward pass.
        end: watch the end-of-text token after each response too.
        per_token: record every token, not only sums and means over each response.
        continues_at: the step from which training goes on; later records are dropped. None: a new recording.
        overwrite: replace the recording that is there, once the first step is written.
        about: JSON values for the recording's run.json: learning rate, loss, seed, ...

    Raises:
        ValueError: a folder that holds a recording, one of other probes when continuing, or something else; a folder
            that is being written; no `ProbeSet`; a batch of no rows.
        ImportError: pyarrow is missing.
    """

    def __init__(
        self,
        probes: ProbeSet,
        tokenizer: Any,
        path: str | Path,
        *,
        batch_size: int = 16,
        end: bool = True,
        per_token: bool = True,
        continues_at: int | None = None,
        overwrite: bool = False,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(probes, ProbeSet):
            raise ValueError(f"probes: expected a ProbeSet, got {type(probes).__name__}")
        check_batch_size(batch_size)
        self.responses = probes.encode(tokenizer, end)
        self.batch_size = batch_size
        self.per_token = per_token
        self._checked = False  # the probes against the model's positions
        self._columns: dict[str, Any] = {}  # of the last record
        self._took = 0.0  # seconds, the last record
        rows = list(probes.rows())
        self._names: dict[str, list[Any]] = {"probe": [row[0] for row in rows], "type": [row[1] for row in rows]}
        fixed = {"end": end, "counts": dict(probes.counts)}
        self.store = Store(path, probes, fixed | dict(about or {}), continues_at, overwrite)
        self.seconds = float(self.store.about.get("seconds", 0.0))  # spent here, not in training

    def record(self, model: nn.Module, step: int, lr: float | None = None) -> None:
        """Measures all probes after `step` steps of training and writes them. The model's mode is kept.

        Args:
            lr: the sum of the learning rates since the last record, which `Recording.lbk` divides by.

        Raises:
            ValueError: a probe beyond the model's table of positions.

        Warns:
            ContextWarning: at the first record, a probe is longer than the model was made for.
        """
        import pyarrow as pa

        if not self._checked:
            check_texts({"model": model}, {"probes": self.responses})
            self._checked = True
        start = time.perf_counter()
        statistics, vocab = measure(model, self.responses, self.batch_size)
        self._columns = as_columns(statistics, self.responses, vocab, self.per_token)
        arrays = {name: pa.array(x if isinstance(x, list) else x.numpy()) for name, x in self._columns.items()}
        n = len(self.responses)
        fixed = {
            "step": pa.array([step] * n, pa.int64()),
            "lr": pa.array([lr] * n, pa.float64()),
            "probe": pa.array(self._names["probe"], pa.int32()),
            "type": pa.array(self._names["type"]).dictionary_encode(),
        }
        self.store.write(step, pa.table(fixed | arrays))
        self._took = time.perf_counter() - start
        self.seconds += self._took
        noted = {"vocab_size": vocab, "dtype": precision_of(model)}
        if not noted.items() <= self.store.about.items():
            self.store.write_about(noted)

    @property
    def scalars(self) -> dict[str, float]:
        """Means of the last record over the probes: "log_prob/chosen", in nats per response, and so on."""
        types = self._names["type"]
        rows = {name: [i for i, other in enumerate(types) if other == name] for name in dict.fromkeys(types)}
        return {f"{s}/{name}": float(self._columns[s][where].mean()) for s in _SCALARS for name, where in rows.items()}

    def foresee(self, records: int) -> None:
        """Logs how long `records` more will take, by the time of the last one; a warning from a minute on."""
        if not self._took or records < 1:
            return
        seconds = self._took * records
        n, tokens = len(self.responses), len(self.responses.targets)
        told = f"{n} responses with {tokens} tokens: {self._took:.1f} s a record, {records} more take {seconds:.0f} s"
        _log.log(logging.WARNING if seconds >= 60 else logging.INFO, told)

    def finish(self) -> None:
        """Writes the time of the recording into run.json and unlocks the folder."""
        try:
            self.store.write_about({"seconds": round(self.seconds, 3), "records": len(self.store.steps)})
        finally:
            self.store.close()


def due(step: int, schedule: Schedule) -> bool:
    """True where the state after `step` steps is to be recorded."""
    return step % schedule == 0 if isinstance(schedule, int) else step in schedule


def count_due(schedule: Schedule, first: int, last: int) -> int:
    """Records of steps first + 1 to last, the last one included."""
    if isinstance(schedule, int):
        return last // schedule - first // schedule + (last % schedule > 0)
    return len({last, *(step for step in schedule if first < step < last)} - {first})


def check_schedule(every: Schedule) -> Schedule:
    """Returns it as it is, or raises ValueError."""
    one = isinstance(every, int)
    steps = [every] if one else list(every) if isinstance(every, Collection) else []
    if not steps or not all(type(s) is int and s >= one for s in steps):
        raise ValueError(f"every: expected a positive number of steps, or the steps themselves, got {every!r}")
    return every


def track(
    batches: Iterable[T],
    model: nn.Module,
    probes: ProbeSet,
    tokenizer: Any,
    path: str | Path,
    *,
    every: Schedule = 10,
    lr: float | None = None,
    first_step: int = 0,
    **options: Any,
) -> Iterator[T]:
    """Records in a training loop of your own: yields the batches and records between them.

        for batch in track(batches, model, probes, tokenizer, "run", every=10):
            ...                                              # one optimiser step

    The states before the first batch and after the last are always recorded. If the loop ends early, the records so
    far are kept.

    Args:
        batches: the training data, one step each.
        model, probes, tokenizer, path: as for `Tracker`.
        every: record after every so many steps, or after the steps listed.
        lr: the learning rate of every step, for `Recording.lbk`; None if it changes.
        first_step: the number of steps already taken; above 0 the recording at `path` is continued.
        options: further arguments of `Tracker`.

    Raises:
        ValueError: as `Tracker`; a schedule that is not positive; at the first batch, as `Tracker.record`.
    """
    check_schedule(every)
    if not isinstance(lr, int | float | None):
        raise ValueError(f"lr: expected a number or None, got {lr!r}")
    continues = first_step if first_step else None
    tracker = Tracker(probes, tokenizer, path, continues_at=continues, **options)
    return _tracked(batches, model, tracker, every, lr, first_step)


def _tracked(
    batches: Iterable[T], model: nn.Module, tracker: Tracker, every: Schedule, lr: float | None, step: int
) -> Iterator[T]:
    recorded = max([s for s in tracker.store.steps if s <= step], default=step)

    def record() -> None:
        nonlocal recorded
        tracker.record(model, step, None if lr is None or step == recorded else lr * (step - recorded))
        recorded = step

    try:
        if step not in tracker.store.steps:
            record()
        with suppress(Exception):  # whatever batches say of their length, an estimate is no reason to stop
            if total := length_hint(batches):
                tracker.foresee(count_due(every, step, step + total))
        for batch in batches:
            yield batch
            step += 1
            if due(step, every):
                record()
        if recorded != step:
            record()
    finally:
        tracker.finish()
