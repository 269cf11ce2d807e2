"""The share of rows for which top_p's depth suffices: the kernels agree, on the emulator, and the command runs."""

import sys

import cuda_depth
import pytest

from eft_ext import combine, fused_step
from python_tests.helpers.host_cuda import Launch, library

VOCAB = 8192
TOKEN_BYTES = 3 * 2  # K = 3, bf16
DEPTH = cuda_depth.DEPTHS.index(12)  # kTopPDepth


@pytest.mark.parametrize("kind", ["zm-3", "zm-5", "rows-flat"])
def test_rows_that_succeed_read_just_their_groups_again(kind):
    logits = cuda_depth.models(kind, 1, VOCAB)
    found = cuda_depth.measure(combine(logits, [1.0, 1.0, -1.0]))
    host = library()
    host.launch = Launch(kernel="streaming")
    for i, temperature in enumerate(cuda_depth.TEMPERATURES):
        for j, top_p in enumerate(cuda_depth.TOP_P):
            with host.installed():
                fused_step(*logits, seed=1, position=0, temperature=temperature, top_p=top_p, backend="cpu")
            again = host.bytes_loaded - VOCAB * TOKEN_BYTES
            groups = 32 * TOKEN_BYTES * found.groups[0, i, DEPTH].item()
            assert found.succeeds[0, i, j, DEPTH] == (again == groups), (temperature, top_p)


def test_the_command_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cuda_depth.py", "--quick", "--kinds", "zm-1", "rows-flat"])
    cuda_depth.main()
    lines = capsys.readouterr().out.splitlines()
    depths = len(cuda_depth.DEPTHS)
    assert "| rows-flat |" + " 0 (100) |" * depths + " 0 |" in lines
    assert "| rows-flat, T 1 |" + " 256 / 256 |" * depths in lines
