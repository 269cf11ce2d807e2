"""A callback's last record, what it carries over a resume, and what it reports to the trainer."""

import copy

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eft_ext.dynamics import DynamicsCallback, Recording, Tracker
from python_tests.dynamics.test_callback import PROBES, QUIET

pytest.importorskip("pyarrow")


def small_trainer(small_base, path, callbacks, trainer=None, **options):
    """Four steps of transformers' Trainer on answers of the demonstration."""
    from transformers import Trainer

    model, tokenizer = small_base
    ids = [tokenizer(t).input_ids[:4] for t in ("Thank you for asking!", "I am glad to help.")] * 6
    data = [{"input_ids": torch.tensor(i), "labels": torch.tensor(i)} for i in ids]
    arguments = TrainingArguments(
        **{"output_dir": str(path / "out"), "max_steps": 4, "save_strategy": "no"} | QUIET | options
    )
    more = {"train_dataset": data, "eval_dataset": data, "processing_class": tokenizer, "callbacks": callbacks}
    return (trainer or Trainer)(model, arguments, **more)


class After(TrainerCallback):
    """Keeps what the first probe's chosen response has for log π after each step, in a plain forward pass."""

    def __init__(self):
        self.seen = {}

    def on_step_end(self, args, state, control, **kwargs):
        model, tokenizer = kwargs["model"], kwargs["processing_class"]
        head = tokenizer(PROBES[0].prompt).input_ids
        tail = [*tokenizer(PROBES[0].responses["chosen"], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            log_pi = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        self.seen[state.global_step] = float(sum(log_pi[len(head) + i - 1, t] for i, t in enumerate(tail)))


@pytest.mark.slow
@pytest.mark.parametrize("early", [False, True])
def test_the_last_step_is_recorded_and_not_the_best(early, small_base, tmp_path):
    """Evaluation loss grows with a rate this large, and the trainer loads the first checkpoint at the end."""
    after = After()
    callbacks = [DynamicsCallback(PROBES, tmp_path / "run", every=100), after]
    callbacks += [EarlyStoppingCallback(1)] if early else []
    kept = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    options = {"load_best_model_at_end": True, "learning_rate": 0.3, "lr_scheduler_type": "constant", **kept}
    trainer = small_trainer(small_base, tmp_path, callbacks, **options)
    trainer.train()
    last = trainer.state.global_step
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    assert last == (2 if early else 4)
    recording = Recording(tmp_path / "run")
    assert recording.steps.tolist() == [0, last]
    np.testing.assert_allclose(recording.curve("chosen")[1, 0], after.seen[last], rtol=1e-4)
    assert abs(after.seen[last] - after.seen[1]) > 1


@pytest.mark.slow
def test_a_last_step_that_is_lost_is_told(small_base, tmp_path):
    """Training is ended by a callback behind ours, and the best model takes the last one's place; no later evaluation
    records it."""
    callbacks = [DynamicsCallback(PROBES, tmp_path / "run", every=100), EarlyStoppingCallback(1)]
    options = {"load_best_model_at_end": True, "learning_rate": 0.3, "lr_scheduler_type": "constant"}
    options |= {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best"}
    trainer = small_trainer(small_base, tmp_path, callbacks, **options, metric_for_best_model="loss")
    with pytest.warns(UserWarning, match="last step, 2, is not recorded, since the best model has taken"):
        trainer.train()
    trainer.evaluate()
    assert Recording(tmp_path / "run").steps.tolist() == [0]


def test_rates_of_records_that_are_gone(small_base, tmp_path):
    """Resuming earlier drops them with the records; what an older checkpoint has summed stays."""
    model, tokenizer = small_base
    tracker = Tracker(PROBES, tokenizer, tmp_path / "run")
    tracker.record(model, 0)
    tracker.record(model, 4, 0.5)
    tracker.store.write_about({"lr_since_record": {"3": 0.25, "5": 0.125}})
    tracker.finish()
    callback = DynamicsCallback(PROBES, tmp_path / "run")
    state = TrainerState(global_step=3, max_steps=3, is_world_process_zero=True)
    arguments = TrainingArguments(output_dir=str(tmp_path), **QUIET)
    callback.on_train_begin(arguments, state, TrainerControl(), model=model, processing_class=tokenizer)
    recording = Recording(tmp_path / "run")
    assert recording.steps.tolist() == [0, 3]
    assert recording._column("lr")[1, 0] == 0.25
    assert recording.about["lr_since_record"] == {"3": 0.25}


@pytest.mark.slow
def test_scalars_for_what_the_trainer_reports_to(small_base, tmp_path):
    """At every record, and the trainer's own logs stay as they are."""
    logs = []

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            kept.append((state.global_step, dict(logs)))

    for told in (False, True):
        kept = []
        recorded = DynamicsCallback(PROBES, tmp_path / f"run-{told}", every=2)
        options = {"logging_strategy": "steps", "logging_steps": 2}
        model = copy.deepcopy(small_base[0])
        trainer = small_trainer((model, small_base[1]), tmp_path, [recorded, Reporter()], **options)
        if told:
            recorded.log_to(trainer)
        trainer.train()
        logs.append(kept)
    without, with_ours = logs
    assert not any(name.startswith("dynamics/") for _, log in without for name in log)
    ours = [(step, log) for step, log in with_ours if any(name.startswith("dynamics/") for name in log)]
    own = [(step, log["loss"]) for step, log in with_ours if "loss" in log]
    assert own == [(step, log["loss"]) for step, log in without if "loss" in log]
    recording = Recording(tmp_path / "run-True")
    assert [step for step, _ in ours] == recording.steps.tolist() == [0, 2, 4]
    for i, (_, log) in enumerate(ours):
        for name in ("chosen", "rejected"):
            for statistic in ("log_prob", "argmax_log_prob_mean", "entropy_mean"):
                mean = recording.curve(name, statistic)[i].mean()
                np.testing.assert_allclose(log[f"dynamics/{statistic}/{name}"], mean, rtol=1e-6)
