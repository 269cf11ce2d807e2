"""Recording inside `transformers.Trainer` and the trainers of TRL."""

from __future__ import annotations

import inspect
import math
import warnings
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eft_ext.dynamics.probes import ProbeSet
from eft_ext.dynamics.track import Schedule, Tracker, check_schedule, count_due, due

_SAVED = "lr_since_record"  # in run.json: at each checkpoint, the learning rates summed since the last record


class DynamicsCallback(TrainerCallback):
    """Records probes while a trainer of transformers or TRL runs.

        trainer = trl.DPOTrainer(..., callbacks=[DynamicsCallback(probes, "run", every=20)])

    Steps are optimiser steps. The states before the first and after the last are always recorded; a warning says so if
    the best model has replaced the last one before that. A run resumed from a checkpoint
    continues its recording there. Probes are read in the precision of the model's own parameters, never under the
    trainer's autocast. Learning rates are summed for `Recording.lbk`; if groups of parameters have different ones, the
    sum is NaN.

    Under data parallelism the main process records. Sharded parameters (FSDP, ZeRO-3) are refused.

    Args:
        probes: what is watched.
        path: folder of the recording; `Recording(path)` reads it.
        every: record after every so many steps, or after the steps listed.
        tokenizer: needed if the trainer has none (`processing_class`).
        options: further arguments of `Tracker`.

    Raises:
        ValueError: a schedule that is not positive; when training starts, no tokenizer, sharded parameters, or what
            `Tracker` raises.
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
        if unknown := options.keys() - inspect.signature(Tracker).parameters.keys():
            raise TypeError(f"{min(unknown)}: expected an option of Tracker, got none of that name")
        self.tracker: Tracker | None = None
        self._trainer: Trainer | None = None
        self._lr = 0.0  # summed since the last record
        self._last = -1

    def log_to(self, trainer: Trainer) -> None:
        """Sends the mean of each type to the trackers of this trainer, at every record.

            callback = DynamicsCallback(probes, "run")
            trainer = trl.DPOTrainer(..., callbacks=[callback])
            callback.log_to(trainer)

        The names are "dynamics/log_prob/chosen" and so on, of `Tracker.scalars`.
        """
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _check_whole(kwargs["model"])
        if not state.is_world_process_zero:
            return
        given = kwargs.get("processing_class") or kwargs.get("tokenizer")
        # A processor of text and images has its tokenizer inside.
        tokenizer = self.tokenizer or getattr(given, "tokenizer", given)
        if tokenizer is None:
            raise ValueError("tokenizer: expected one, since the trainer has no processing_class, got None")
        about = {
            "model": getattr(getattr(kwargs["model"], "config", None), "_name_or_path", ""),
            "arguments": {
                name: getattr(args, name, None)
                for name in ("learning_rate", "lr_scheduler_type", "optim", "seed", "beta", "loss_type", "max_steps")
            },
        }
        step = state.global_step
        options = {**self.options, "about": about | (self.options.get("about") or {})}
        self.tracker = Tracker(self.probes, tokenizer, self.path, continues_at=step or None, **options)
        store = self.tracker.store
        if step in store.steps:
            self._lr, self._last = 0.0, step
        else:
            self._lr = store.about.get(_SAVED, {}).get(str(step), math.nan) if step else 0.0
            self._record(control, kwargs["model"], step)
        if _SAVED in store.about:  # those beyond are of records that are gone
            store.write_about({_SAVED: {at: lr for at, lr in store.about[_SAVED].items() if int(at) <= step}})
        self.tracker.foresee(count_due(self.every, step, state.max_steps))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        optimizer = kwargs.get("optimizer")
        # A scaler of gradients skips a step whose gradients are not finite.
        if optimizer is not None and not getattr(optimizer, "step_was_skipped", False):
            rates = {float(group["lr"]) for group in optimizer.param_groups if group["params"]}
            self._lr += rates.pop() if len(rates) == 1 else math.nan

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if due(state.global_step, self.every) or control.should_training_stop:
            self._record(control, kwargs["model"], state.global_step)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_training_stop:  # early
            self._record(control, kwargs["model"], state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_training_stop:
            self._record(control, kwargs["model"], state.global_step)
        if self.tracker is not None:  # whoever resumes here goes on with the sum
            saved = self.tracker.store.about.get(_SAVED, {})
            self.tracker.store.write_about({_SAVED: saved | {str(state.global_step): self._lr}})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.tracker is None:
            return
        if not args.load_best_model_at_end:
            self._record(control, kwargs["model"], state.global_step)
        elif self._last != state.global_step:
            told = "is not recorded, since the best model has taken its place"
            remedy = "put DynamicsCallback behind the callbacks that end training, or let them end it after a step"
            warnings.warn(f"the state after the last step, {state.global_step}, {told}; {remedy}", stacklevel=2)
        self.tracker.finish()
        self.tracker = None

    def _record(self, control: TrainerControl, model: Any, step: int) -> None:
        if self.tracker is None or step == self._last:
            return
        self.tracker.record(model, step, self._lr if self.tracker.store.steps else None)
        self._lr, self._last = 0.0, step
        if self._trainer is not None:
            wanted = control.should_log  # the trainer's own log of this step, which ours would count for
            # Not the log of TRL's trainers, which would restart their averages.
            Trainer.log(self._trainer, {f"dynamics/{name}": x for name, x in self.tracker.scalars.items()})
            control.should_log = wanted


def _check_whole(model: Any) -> None:
    """Raises ValueError for parameters that are spread over processes."""
    for module in model.modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise ValueError("model: expected whole parameters in each process, got them sharded by FSDP")
    for name, parameter in model.named_parameters():
        sharded = hasattr(parameter, "ds_id") or hasattr(parameter, "device_mesh")  # ZeRO-3's and DTensor's
        if sharded:
            raise ValueError(f"model: expected whole parameters in each process, got {name} sharded")
