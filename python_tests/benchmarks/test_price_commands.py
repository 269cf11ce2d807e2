"""The commands behind docs/internals/price.md run, on models so small that their figures say nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command):
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("profile_step.py", "--trio", "tiny", "--rounds", 1),
        ("profile_step.py", "--trio", "tiny", "--rounds", 1, "--stock", "--batch", 2),
        ("bench_pair.py", "--trios", "tiny", "--rounds", 1, "--batch", 2),
        ("bench_pair.py", "--at-once", "--rounds", 1),
        ("bench_pair.py", "--adapter", "--rounds", 1, "--batch", 1, "--threads", 1),
        ("bench_precision.py", "--trios", "tiny", "--tokens", 2),
    ],
    ids=lambda command: " ".join(map(str, command)),
)
def test_it_runs(command, tmp_path):
    path = tmp_path / "found.json"
    done = run(f"benchmarks/{command[0]}", *command[1:], "--json", path)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(path.read_text())) >= {"machine"}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("profile_step.py", "--prompt", 8), "--prompt: expected at least 17, got 8"),
        (("profile_step.py", "--trio", "other"), "invalid choice: 'other'"),
        (("bench_precision.py", "--trios", "other"), "invalid choice: 'other'"),
    ],
)
def test_what_does_not_exist_is_refused(command, message):
    done = run(f"benchmarks/{command[0]}", *command[1:])
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
