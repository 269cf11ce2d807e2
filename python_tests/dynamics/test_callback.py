"""The callback inside transformers' Trainer and TRL's trainers."""

import itertools

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from eft_ext.dynamics import DynamicsCallback, Probe, ProbeSet, Recording, Tracker, track
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
    from transformers import Trainer

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
    from transformers import Trainer

    ids = torch.arange(4)
    options = TrainingArguments(output_dir=str(tmp_path), max_steps=1, **QUIET)
    data = [{"input_ids": ids, "labels": ids}] * 2
    trainer = Trainer(small_base[0], options, train_dataset=data, callbacks=[DynamicsCallback(PROBES, tmp_path / "r")])
    with pytest.raises(ValueError, match="tokenizer: expected one"):
        trainer.train()


def test_a_module_of_torch_alone(small_base, tmp_path):
    """In a trainer, which asks it for no configuration."""

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(1280, 1280)

        def forward(self, ids):
            return self.table(ids)

    callback = DynamicsCallback(PROBES, tmp_path / "run", tokenizer=small_base[1])
    arguments = TrainingArguments(output_dir=str(tmp_path), **QUIET)
    callback.on_train_begin(arguments, TrainerState(is_world_process_zero=True), TrainerControl(), model=Plain())
    assert Recording(tmp_path / "run").about["model"] == ""


@pytest.mark.parametrize("every", [0, -1, True, 2.0, None, [], [1, 2.0], "often"])
def test_schedules_are_checked(every):
    with pytest.raises(ValueError, match=r"every: expected a positive number of steps, or the steps themselves, got"):
        DynamicsCallback(PROBES, "unused", every)


def test_arguments_are_checked(small_base, tmp_path):
    with pytest.raises(TypeError, match="batchsize: expected an option of Tracker, got none of that name"):
        DynamicsCallback(PROBES, "unused", batchsize=3)
    with pytest.raises(ValueError, match="probes: expected a ProbeSet, got list"):
        Tracker([{"prompt": "a", "chosen": "b"}], small_base[1], tmp_path / "run")
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        Tracker(PROBES, small_base[1], tmp_path / "run", batch_size=0)
    assert not (tmp_path / "run").exists()


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
