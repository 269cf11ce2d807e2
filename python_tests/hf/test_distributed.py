"""The large model sharded over two processes: one of them draws, and both go on with its tokens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eft_ext.hf import EmulatedModel

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "python_tests" / "helpers" / "two_ranks.py"


@pytest.fixture
def ranks(tmp_path, llamas):
    for name, model in zip(("large", "tuned", "base"), llamas, strict=True):
        model.save_pretrained(tmp_path / name)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*command, str(SCRIPT), str(tmp_path)], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_two_ranks_go_on_with_one_token(ranks, llamas):
    ids = torch.tensor([[0, 5, 6], [7, 8, 9]])
    options = dict(attention_mask=(ids > 0).long(), max_new_tokens=12, do_sample=True, top_k=0, seed=1)
    model = EmulatedModel(*llamas)
    expected = model.generate(ids, **options).tolist()
    processed = model.generate(ids, repetition_penalty=1.3, **options).tolist()
    for rank, found in enumerate(ranks):
        assert found["tokens"] == found["eager"] == expected
        assert found["processed"] == processed
        assert found["late_1"] == [expected, processed], "the other rank's clock does not count"
        assert [len(row) for tokens in found["late_0"] for row in tokens] == [4] * 4, "one token, then all stop"
        assert found["plan"].startswith("static")
        assert "spread over devices" in found["plan"]
        assert found["drew"] == (rank == 0), "the step runs once"
        assert len(found["own"][0]) == 4 + rank, "processes with whole models are not tied together"
