"""The callback inside transformers' Trainer and TRL's trainers."""

import copy
import itertools

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from eft_ext.dynamics import DynamicsCallback, Probe, ProbeSet, Recording, track
from eft_ext.dynamics.track import count_due

pytest.importorskip("pyarrow")
PROBES = ProbeSet(
    tuple(
        Probe(f"Question: {q}\nAnswer:", {"chosen": " Thank you for asking!", "rejected": f" {q}"})
        for q in ("Who?", "In which town?")
    )
)
QUIET = dict(
    report_to="none", disable_tqdm=True, use_cpu=True, per_device_train_batch_size=2, logging_strategy="no", seed=0
)


def preferences():
    datasets = pytest.importorskip("datasets")
    rows = [
        {"prompt": f"Question: Who is {i}?\nAnswer:", "chosen": " Thank you for asking!", "rejected": f" It is {i}."}
        for i in range(12)
    ]
    return datasets.Dataset.from_list(rows)


def check(path, last=4):
    recording = Recording(path)
    assert recording.steps.tolist() == [0, 2, last]
    change = recording.curve("chosen")[-1] - recording.curve("chosen")[0]
    assert np.isfinite(change).all()
    assert (change != 0).all()
    assert recording.about["arguments"]["learning_rate"] == 1e-3
    return recording


@pytest.mark.slow
def test_trainer_and_its_resumption(small_base, tmp_path):
    from transformers import Trainer, TrainingArguments

    model, tokenizer = small_base
    ids = [tokenizer(t).input_ids[:4] for t in ("Thank you for asking!", "I am glad to help.")] * 6
    data = [{"input_ids": torch.tensor(i), "labels": torch.tensor(i)} for i in ids]

    def train(steps, path, model=model, **more):
        options = dict(output_dir=str(tmp_path / path), learning_rate=1e-3, max_steps=steps, save_steps=3, **QUIET)
        callback = DynamicsCallback(PROBES, tmp_path / f"{path}-run", every=2)
        trainer = Trainer(
            model, TrainingArguments(**options), train_dataset=data, processing_class=tokenizer, callbacks=[callback]
        )
        trainer.train(**more)
        return Recording(tmp_path / f"{path}-run")

    first = train(4, "a")
    check(tmp_path / "a-run")
    # The schedule of the learning rate falls from 1e-3 to 0 in equal parts.
    np.testing.assert_allclose(first._column("lr")[1:, 0], [1e-3 + 7.5e-4, 5e-4 + 2.5e-4])
    again = train(4, "a", resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert again.steps.tolist() == [0, 2, 3, 4]
    np.testing.assert_allclose(again._column("lr")[1:, 0], [1e-3 + 7.5e-4, 5e-4, 2.5e-4])
    np.testing.assert_allclose(again.curve("chosen")[-1], first.curve("chosen")[-1], rtol=1e-5)


@pytest.mark.slow
def test_sft_trainer(small_base, tmp_path):
    trl = pytest.importorskip("trl")
    model, tokenizer = small_base
    from eft_ext.dynamics import extend_for_sft

    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(extend_for_sft(preferences()))
    options = trl.SFTConfig(output_dir=str(tmp_path), learning_rate=1e-3, max_steps=4, save_strategy="no", **QUIET)
    callback = DynamicsCallback(PROBES, tmp_path / "run", every=2)
    trl.SFTTrainer(model, options, train_dataset=data, processing_class=tokenizer, callbacks=[callback]).train()
    check(tmp_path / "run")


@pytest.mark.slow
def test_dpo_trainer(small_base, tmp_path):
    trl = pytest.importorskip("trl")
    model, tokenizer = small_base
    options = trl.DPOConfig(
        output_dir=str(tmp_path), learning_rate=1e-3, max_steps=4, save_strategy="no", beta=0.5, **QUIET
    )
    callback = DynamicsCallback(PROBES, tmp_path / "run", every=2)
    trl.DPOTrainer(
        model, args=options, train_dataset=preferences(), processing_class=tokenizer, callbacks=[callback]
    ).train()
    recording = check(tmp_path / "run")
    assert recording.about["arguments"]["beta"] == 0.5
    margin = recording.curve("chosen") - recording.curve("rejected")
    assert (margin[-1] > margin[0]).all()


def test_without_a_tokenizer(small_base, tmp_path):
    from transformers import Trainer, TrainingArguments

    ids = torch.arange(4)
    options = TrainingArguments(output_dir=str(tmp_path), max_steps=1, **QUIET)
    data = [{"input_ids": ids, "labels": ids}] * 2
    trainer = Trainer(small_base[0], options, train_dataset=data, callbacks=[DynamicsCallback(PROBES, tmp_path / "r")])
    with pytest.raises(ValueError, match="tokenizer: expected one"):
        trainer.train()


def small_trainer(small_base, path, callbacks, trainer=None, **options):
    """Four steps of transformers' Trainer on answers of the demonstration."""
    from transformers import Trainer, TrainingArguments

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


@pytest.mark.parametrize(
    ("every", "first", "last", "due"),
    [(20, 0, 100, 5), (20, 0, 101, 6), (20, 40, 50, 1), ([1, 5, 9], 0, 9, 3), ([1, 5], 1, 9, 2)],
)
def test_records_to_come(every, first, last, due):
    assert count_due(every, first, last) == due


def test_what_a_run_will_cost_is_said_before_it(small_base, tmp_path, caplog, monkeypatch):
    model, tokenizer = small_base
    clock = itertools.count(0, 4)
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    for _ in track([0] * 40, model, PROBES, tokenizer, tmp_path / "run", every=2):
        break
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    tokens = Recording(tmp_path / "run").table.column("tokens").to_pylist()
    expected = f"4 responses with {sum(tokens)} tokens: 4.0 s a record, 20 more take 80 s"
    assert record.getMessage() == expected
