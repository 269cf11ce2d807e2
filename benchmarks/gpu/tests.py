"""The tests that need a GPU, by kernel, and the counts that a run of them prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Tested(NamedTuple):
    """A kernel or a part built on kernels: its name, its tests, and the smallest of them (pytest -k)."""

    name: str
    file: str
    smallest: str = ""


OPS, DECODING = "python_tests/ops", "python_tests/decoding"
CUDA = {
    "step": Tested("CUDA step", f"{OPS}/test_cuda_gpu.py", "small or first_call or replayed"),
    "verify": Tested("CUDA verification", f"{OPS}/test_cuda_verify_gpu.py", "small or replayed"),
    "score": Tested("CUDA scoring", f"{OPS}/test_cuda_score_gpu.py", "small or buffers"),
    "special": Tested("CUDA special tokens", f"{OPS}/test_cuda_special_gpu.py", "small"),
    "loop": Tested(
        "engine: graphs, rounds, WHILE loop", f"{DECODING}/test_engine_gpu.py", "llama and greedy"
    ),
}  # fmt: skip
GOLDEN = Tested("golden vectors", f"{OPS}/test_golden.py")
TRITON = [
    Tested("Triton step and verification", f"{OPS}/test_triton_gpu.py"),
    Tested("Triton scoring", f"{OPS}/test_triton_score_gpu.py"),
]
FILES = [t.file for t in (*CUDA.values(), GOLDEN, *TRITON)]


def pytest(python: str, files: Sequence[str], workers: int, *more: str) -> list[str]:
    """Returns a command whose output `counts_of` reads, also where it was killed."""
    options = ["-m", "gpu", "-v", "-rfE", "--tb=short", "-p", "no:cacheprovider", "--timeout-method=thread"]
    return [python, "-m", "pytest", *options, "-n", str(workers), *more, *files]


@dataclass
class Counts:
    """Tests of one file."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)  # node ids, as they came
    skipped: int = 0
    unfinished: list[str] = field(default_factory=list)  # begun without a result: running when the run was killed

    def __str__(self) -> str:
        parts = [f"{self.passed} passed"] + [f"{len(self.failed)} failed"] * bool(self.failed)
        parts += [f"{self.skipped} skipped"] * bool(self.skipped)
        return ", ".join(parts + [f"{len(self.unfinished)} unfinished"] * bool(self.unfinished))


# pytest-xdist, with -v: "[gw1] [ 50%] PASSED python_tests/ops/test_x.py::test_y[1]".
_LINE = re.compile(r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR|SKIPPED|XFAIL) ((\S+?)::.*\S)\s*$", re.MULTILINE)
_BEGUN = re.compile(r"^((python_tests/\S+?)::.*\S)\s*$", re.MULTILINE)


def counts_of(output: str) -> dict[str, Counts]:
    """Counts the tests in pytest's output, by file."""
    found: dict[str, Counts] = {}
    ended = set()
    for outcome, test, file in _LINE.findall(output):
        ended.add(test)
        counts = found.setdefault(file, Counts())
        if outcome == "PASSED":
            counts.passed += 1
        elif outcome in ("FAILED", "ERROR"):
            counts.failed.append(test)
        else:
            counts.skipped += 1
    for test, file in _BEGUN.findall(output):
        if test not in ended:
            found.setdefault(file, Counts()).unfinished.append(test)
    return found


def reasons_of(output: str) -> list[str]:
    """Returns the reasons in pytest's summary: "test_x.py::test_y - AssertionError: ..."."""
    return [line.partition(" ")[2] for line in re.findall(r"^(?:FAILED|ERROR) \S+::.* - .*$", output, re.MULTILINE)]
