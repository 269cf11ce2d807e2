"""Recording inside `transformers.Trainer` and the trainers of TRL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eft_ext.dynamics.probes import ProbeSet
from eft_ext.dynamics.track import Schedule, Tracker, check_schedule, due


class DynamicsCallback(TrainerCallback):
    """Records what training does to probes; the trainer is left as it is.

        trainer = trl.DPOTrainer(..., callbacks=[DynamicsCallback(probes, "run", every=20)])

    Steps are optimiser steps. The state before the first and after the last is recorded whatever the schedule. A run
    resumed from a checkpoint continues its recording there. Under data parallelism the main process records; models
    whose parameters are sharded (FSDP, ZeRO-3) are not supported.

    Args:
        probes: what is watched.
        path: folder of the recording; `Recording(path)` reads it.
        every: record after each so many steps, or after these steps.
        tokenizer: needed where the trainer has none (`processing_class`).
        options: of `Tracker`.

    Raises:
        ValueError: a schedule that is not positive; when training starts, no tokenizer, or what `Tracker` raises.
    """

    def __init__(
        self,
        probes: ProbeSet,
        path: str | Path,
        every: Schedule = 10,
        tokenizer: Any = None,
        **options: Any,
    ) -> None:
        self.probes, self.path, self.tokenizer, self.options = probes, path, tokenizer, options
        self.every = check_schedule(every)
        self.tracker: Tracker | None = None
        self._lr = 0.0  # summed since the last record
        self._last = -1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        given = kwargs.get("processing_class") or kwargs.get("tokenizer")
        # A processor of text and images has its tokenizer inside.
        tokenizer = self.tokenizer or getattr(given, "tokenizer", given)
        if tokenizer is None:
            raise ValueError("tokenizer: expected one, since the trainer has no processing_class, got None")
        about = {
            "model": getattr(kwargs["model"].config, "_name_or_path", ""),
            "arguments": {
                name: getattr(args, name, None)
                for name in ("learning_rate", "lr_scheduler_type", "optim", "seed", "beta", "loss_type", "max_steps")
            },
        }
        step = state.global_step
        options = {**self.options, "about": about | (self.options.get("about") or {})}
        self.tracker = Tracker(self.probes, tokenizer, self.path, continues_at=step or None, **options)
        self._lr, self._last = 0.0, step
        if step not in self.tracker.store.steps:
            self.tracker.record(kwargs["model"], step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        optimizer = kwargs.get("optimizer")
        if optimizer is not None:
            self._lr += optimizer.param_groups[0]["lr"]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if due(state.global_step, self.every):
            self._record(kwargs["model"], state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._record(kwargs["model"], state.global_step)
        if self.tracker is not None:
            self.tracker.finish()

    def _record(self, model: Any, step: int) -> None:
        if self.tracker is not None and step != self._last:
            self.tracker.record(model, step, self._lr)
            self._lr, self._last = 0.0, step
