"""The generating script runs end to end and leaves what the demonstration loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eft_ext.demo.fit import IGNORE, pretraining_batches, tuning_batches
from eft_ext.demo.recipe import QUICK
from eft_ext.demo.tokenizer import train_tokenizer
from eft_ext.demo.trio import GREEDY, load_trio
from eft_ext.demo.world import World


@pytest.mark.slow
def test_quick_run_makes_loadable_models(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "eft_ext.demo.train",
        "--quick",
        "--seed",
        "7",
        "--threads",
        "1",
    ]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, capture_output=True)
    about = json.loads((tmp_path / "training.json").read_text())
    assert about["seed"] == 7
    assert about["models"]["large-tuned"]["steps"] == QUICK.tune_large.steps
    assert about["models"]["large-base"]["losses"][-1] < about["models"]["large-base"]["losses"][0]
    trio = load_trio(tmp_path)
    assert trio.world.facts == World(7, QUICK.people, QUICK.towns).facts
    assert len(trio.generate("oracle", ["Question: Who?\nAnswer:"], GREEDY)) == 1


def test_batches() -> None:
    world = World(0, QUICK.people, QUICK.towns)
    tokenizer = train_tokenizer(world, QUICK.vocab_size, documents_seen=500)
    ids, labels = next(pretraining_batches(world, tokenizer, QUICK, seed=0))
    assert ids.shape == (QUICK.rows, QUICK.length)
    assert torch.equal(ids, labels)
    assert (ids[:, 0] == tokenizer.eos_token_id).all()
    ids, labels = next(tuning_batches(world, tokenizer, QUICK, seed=0))
    for row, learnt in zip(ids, labels != IGNORE, strict=True):
        answer = tokenizer.decode(row[learnt])
        assert answer.startswith(" Thank you for asking!")
        assert answer.endswith("I am glad to help." + tokenizer.eos_token)
        assert tokenizer.decode(row[: int(learnt.nonzero()[0])]).endswith("\nAnswer:")
