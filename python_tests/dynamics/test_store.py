"""The folder of a recording: one writer, nobody else's files, and files that are not what was written."""

import json
import os
import pickle
import re
import signal
import time

import pytest
import torch

from eft_ext.dynamics import DynamicsCallback, Probe, ProbeSet, Recording
from eft_ext.dynamics.store import Store, check_free
from python_tests.helpers.full_disk import full_behind

pa, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
PROBES = ProbeSet((Probe("Who?", {"chosen": " I.", "rejected": " No."}),))


def table(step):
    return pa.table({"step": [step, step], "log_prob": [-1.0, -2.0]})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


def recorded(path, *steps):
    store = Store(path, PROBES, {})
    for step in steps:
        store.write(step, table(step))
    store.close()


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_another_process_is_kept_out_until_it_dies(path):
    """Also by SIGKILL, behind which the file of the lock stays."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        store = Store(path, PROBES, {})
        store.write(0, table(0))
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(0)
    try:
        assert os.read(reader, 1) == b"x"
        message = f"{path} is already being written$"
        for more in ({"overwrite": True}, {"continues_at": 1}):
            with pytest.raises(ValueError, match=f"^path: {message}"):
                Store(path, PROBES, {}, **more)
        with pytest.raises(ValueError, match=f"^--out: {message}"):
            check_free(path, True, "--out", "")
        assert Recording(path).steps.tolist() == [0], "reading needs no lock"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (path / "run.lock").exists()
    store = Store(path, PROBES, {}, continues_at=0)
    store.write(1, table(1))
    assert Recording(path).table.column("log_prob").to_pylist() == [-1.0, -2.0] * 2


def test_in_one_process_the_later_takes_over(path):
    """So that a notebook's cell can be run again, while the first is still about."""
    first = Store(path, PROBES, {})
    first.write(0, table(0))
    with pytest.raises(ValueError, match="has a recording already"):
        Store(path, PROBES, {})
    first.write(1, table(1))
    second = Store(path, PROBES, {}, overwrite=True)
    for refused in (first, pickle.loads(pickle.dumps(first))):
        with pytest.raises(ValueError, match="is already being written"):
            refused.write(2, table(2))
    second.write(5, table(5))
    assert Recording(path).steps.tolist() == [5]
    second.close()
    first.write(6, table(6))


def test_a_refused_store_holds_nothing(path):
    recorded(path, 0)
    with pytest.raises(ValueError, match="records other probes") as kept:
        Store(path, ProbeSet((Probe("Where?", {"chosen": " Here."}),)), {}, continues_at=0)
    check_free(path, True, "--out", "")
    del kept


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '{"name": "x"}', '{"format": 1}', "", '{"format": 2, "probes": 0, "types": 0}', "[" * 100_000],
    ids=range(7),
)
def test_somebody_elses_folder_is_left_alone(path, text):
    path.mkdir()
    for name in ("run.json", "notes.tmp", "step-1.parquet.tmp", "step-00000001.parquet"):
        (path / name).write_text(text)
    before = content(path)
    for more in ({}, {"overwrite": True}, {"continues_at": 3}):
        with pytest.raises(ValueError, match=f"^path: {path}/run.json: expected a recording"):
            Store(path, PROBES, {}, **more)
    with pytest.raises(ValueError, match=f"^{path}/run.json: expected a recording"):
        Recording(path)
    (path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"with recorded steps and no run\.json"):
        Store(path, PROBES, {}, overwrite=True)
    assert content(path) == {name: held for name, held in before.items() if name != "run.json"}


def test_only_our_own_leftovers_go(path):
    recorded(path, 3)
    foreign = {"a.tmp", "step-foo.parquet", "step-1.parquet", "my-step-00000001.parquet.tmp", "run.json.tmp.tmp"}
    ours = {
        "run.json.tmp",
        "probes.jsonl.0a1b2c3d.tmp",
        "step-00000004.parquet.tmp",
        "step-00000004.parquet.00ff00ff.tmp",
    }
    for name in foreign | ours:
        (path / name).write_text("x")
    store = Store(path, PROBES, {}, overwrite=True)
    store.write(7, table(7))
    store.close()
    assert content(path).keys() == foreign | {"run.json", "run.lock", "probes.jsonl", "step-00000007.parquet"}
    assert Recording(path).steps.tolist() == [7]
    assert len(Recording(path).table) == 2


def test_a_folder_that_is_no_recording_keeps_what_looks_like_leftovers(path):
    path.mkdir()
    mine = {name: b"mine" for name in ("run.json.tmp", "probes.jsonl.deadbeef.tmp", "step-00000004.parquet.tmp")}
    for name, held in mine.items():
        (path / name).write_bytes(held)
    recorded(path, 7)
    assert mine.items() <= content(path).items()


@pytest.mark.parametrize("name", ["probes.jsonl", "run.lock"])
def test_a_foreign_file_under_one_of_our_names(path, name):
    path.mkdir()
    (path / name).write_text("mine")
    said = f"expected.*{re.escape(name)}"
    for more in ({}, {"overwrite": True}, {"continues_at": 3}):
        with pytest.raises(ValueError, match=f"^path: .*{said}"):
            Store(path, PROBES, {}, **more)
        with pytest.raises(ValueError, match=f"^--out: .*{said}"):
            check_free(path, True, "--out", "")
    assert (path / name).read_text() == "mine"


OTHERS = ProbeSet((Probe("Where?", {"chosen": " Here.", "rejected": " No."}),))


def test_the_old_recording_stays_until_the_first_step_of_the_new_one(path):
    recorded(path, 0, 1)
    before = content(path)
    store = Store(path, OTHERS, {}, overwrite=True)
    assert store.steps == []
    store.write_about({"seconds": 1.0})
    noise = pa.table({"step": [5] * 5000, "log_prob": torch.rand(5000, dtype=torch.float64).tolist()})
    with full_behind(10_000), pytest.raises(OSError, match="File too large") as raised:
        store.write(5, noise)
    assert raised.value.filename == str(path / "step-00000005.parquet")
    assert content(path) == before
    assert sorted(file.name for file in path.iterdir()) == sorted(before), "nothing else is left there"
    assert Recording(path).steps.tolist() == [0, 1]
    store.write(5, table(5))
    assert store.steps == Recording(path).steps.tolist() == [5]
    assert Recording(path).probes == OTHERS
    assert Recording(path).about["seconds"] == 1.0
    store.write(6, table(6))
    assert Recording(path).steps.tolist() == [5, 6]


def test_a_superseded_store_does_not_begin_anew(path):
    first = Store(path, PROBES, {})
    recorded(path, 0)
    with pytest.raises(ValueError, match="has a recording already"):
        first.write(1, table(1))
    assert Recording(path).steps.tolist() == [0]


def test_files_that_are_not_what_was_written_are_named(path):
    recorded(path, 0, 1)
    step, probes = path / "step-00000001.parquet", path / "probes.jsonl"
    whole = step.read_bytes()
    others = pa.table({"step": [1], "log_prob": [-1.0]}), pa.table({"step": [1, 1], "x": [0.0, 0.0]})
    for broken in (b"", b"PAR1", whole[:-9], *others):
        if isinstance(broken, bytes):
            step.write_bytes(broken)
        else:
            parquet.write_table(broken, step)
        with pytest.raises(ValueError, match=f"^{step}: expected a"):
            _ = Recording(path).table
    step.write_bytes(whole)
    told = probes.read_text()
    for broken, said in (
        ("{", ", line 1: not JSON"),
        (told.replace("Who", "Why"), ": expected the probes of the recording"),
    ):
        probes.write_text(broken)
        with pytest.raises(ValueError, match=re.escape(f"{probes}{said}")):
            Recording(path)


def test_a_path_that_is_a_file(path):
    path.write_text("mine")
    with pytest.raises(ValueError, match=f"^path: expected a folder, got the file {path}$"):
        Store(path, PROBES, {}, overwrite=True)
    assert path.read_text() == "mine"


def test_what_is_not_finite_in_run_json(path):
    store = Store(path, PROBES, {"arguments": {"lr": float("inf"), "dtype": torch.float32}})
    store.write(0, table(0))
    told = json.loads((path / "run.json").read_text(), parse_constant=pytest.fail)
    assert told["arguments"] == {"lr": None, "dtype": "torch.float32"}


def test_a_callback_goes_on_after_an_error(small_base, path):
    """The trainer tells nobody of it, and its traceback keeps the callback."""
    from transformers import TrainerControl, TrainerState, TrainingArguments

    model, tokenizer = small_base
    callback = pickle.loads(pickle.dumps(DynamicsCallback(PROBES, path, every=1)))
    assert not path.exists()
    arguments, state = TrainingArguments(output_dir=str(path), report_to="none"), TrainerState()
    state.is_world_process_zero = True
    for step in (0, 1):
        state.global_step = step
        callback.on_train_begin(arguments, state, TrainerControl(), model=model, processing_class=tokenizer)
        state.global_step = step + 1
        callback.on_step_end(arguments, state, TrainerControl(), model=model)
    held = callback.tracker
    callback.on_train_end(arguments, state, TrainerControl(), model=model)
    check_free(path, True, "--out", "")
    assert held.store.steps == [0, 1, 2]
