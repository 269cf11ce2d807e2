"""The CUDA kernels without a GPU: `csrc/emulator` runs them on the CPU, and this module puts them under fused_step.

`HostCuda.installed` takes the place of the native module, so that a call with `backend="cpu"` runs the kernels instead:
everything that is tested of the CPU step can be asked of them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eft_ext.ops.backends import call_cache, native
from python_tests.helpers.ctypes_structs import (
    MAX_MODELS,
    Details,
    How,
    Integer,
    Logits,
    Real,
    ScoreCall,
    ScoreStats,
    SpecialTokens,
    Step,
    Verify,
    integer,
    real,
)
from python_tests.helpers.rows import ROWS
from python_tests.helpers.slow_params import slowly_but

ROOT = Path(__file__).parents[2]
# One thread after another takes its time: few kinds of rows in make test, all of them in make test-all.
KINDS = slowly_but(("lm", "bf16_ties"), ROWS)
KERNELS = ("streaming", "resident", "chosen")


@dataclass
class Launch:
    """The launch of the next steps; tokens do not depend on it. "chosen" is the library's own choice on an H200."""

    seed: int = 0
    kernel: str = "chosen"
    blocks: int = 3
    bf16_kernel: bool = True


class Counts(NamedTuple):
    """Steps along a launch's longest path: from the row's ticket on, or all where there is none, and before it."""

    block_barriers: int
    cluster_barriers: int
    round_trips: int  # to global memory, each after the one before
    read_block_barriers: int
    read_cluster_barriers: int
    read_round_trips: int


class HostCuda:
    """The library, with what `eft_ext._native` offers to `eft_ext.ops.backends.native`."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.eft_last_error.restype = c_char_p
        self._library.eft_host_bytes_loaded.restype = c_uint64
        self._library.eft_step_host.argtypes = [POINTER(Step), POINTER(How)]
        self._library.eft_verify_host.argtypes = [POINTER(Verify), POINTER(How)]
        self._library.eft_combine_host.argtypes = [POINTER(Step), c_void_p, c_int64, POINTER(How)]
        self._library.eft_score_host.argtypes = [POINTER(ScoreCall), POINTER(How)]
        self.launch = Launch()
        self.streamed_instead = 0  # steps that the resident kernel left to the streaming one

    @property
    def detects_races(self) -> bool:
        return bool(self._library.eft_host_detects_races())

    @property
    def bytes_loaded(self) -> int:
        """By the last step's 16-byte loads."""
        return self._library.eft_host_bytes_loaded()

    @property
    def counts(self) -> Counts:
        """The sum over the last step's launches."""
        counts = (c_uint64 * len(Counts._fields))()
        self._library.eft_host_counts(counts)
        return Counts(*counts)

    @contextmanager
    def installed(self) -> Iterator[HostCuda]:
        """Calls with backend="cpu" run the kernels."""
        original, native._native = native._native, self
        call_cache._calls.clear()
        try:
            yield self
        finally:
            native._native = original
            call_cache._calls.clear()

    # What the native module has.

    def prepare(self, *arguments: Any) -> Prepared:
        *mixture, temperature, top_k, top_p, min_p, seed, position, details = arguments
        step = self._mixture(*mixture)
        step.temperature, step.top_p, step.min_p = real(temperature), real(top_p), real(min_p)
        step.top_k, step.seed, step.position = integer(top_k), integer(seed), integer(position)
        step.details = Details(*details)
        return Prepared(self, step)

    def prepare_verify(self, prepared: Prepared, strides: list[int], *arguments: Any) -> PreparedVerify:
        mask_stride, drafts, num_drafts, lengths, logits, logits_stride, heat, top_k, top_p, min_p, *results = arguments
        verify = Verify(prepared.step, (c_int64 * MAX_MODELS)(*strides), mask_stride, num_drafts, drafts)
        verify.lengths, verify.draft_logits = integer(lengths), Logits(*logits)
        verify.draft_position_stride, verify.draft_temperature = logits_stride, real(heat)
        verify.draft_top_k, verify.draft_top_p, verify.draft_min_p = integer(top_k), real(top_p), real(min_p)
        verify.tokens, verify.num_accepted, verify.status = results
        return PreparedVerify(self, verify)

    def combine(self, isa: int, *arguments: Any) -> None:
        *mixture, z, z_row_stride = arguments
        step, how = self._mixture(*mixture), self._how("streaming")
        self._check(self._library.eft_combine_host(byref(step), z, z_row_stride, byref(how)))

    def prepare_score(self, *arguments: Any) -> PreparedScore:
        *mixture, targets, ignore_index, compared, fields, num_top, num_changed = arguments
        stats = ScoreStats(*fields, num_top, num_changed)
        return PreparedScore(self, ScoreCall(self._mixture(*mixture), targets, ignore_index, compared, stats))

    def cpu_best_isa(self) -> int:
        return 1

    def cuda_built(self) -> bool:
        return False

    def run(self, step: Step) -> None:
        how = self._how(self.launch.kernel)
        code = self._library.eft_step_host(byref(step), byref(how))
        if code == 2 and self.launch.kernel == "resident":
            self.streamed_instead += 1
            how = self._how("streaming")
            code = self._library.eft_step_host(byref(step), byref(how))
        self._check(code)

    def run_verify(self, verify: Verify) -> None:
        how = self._how("streaming" if self.launch.kernel == "resident" else self.launch.kernel)
        self._check(self._library.eft_verify_host(byref(verify), byref(how)))

    def score(self, call: ScoreCall) -> None:
        how = self._how("chosen" if self.launch.kernel == "chosen" else "streaming")
        self._check(self._library.eft_score_host(byref(call), byref(how)))

    def _how(self, kernel: str) -> How:
        return How(self.launch.seed, KERNELS.index(kernel), max(1, self.launch.blocks), self.launch.bf16_kernel)

    def _mixture(self, rows: int, vocab: int, logits: Any, weights: Any, *parts: Any) -> Step:
        bias, token_bitmask, conservative, special = parts
        step = Step(num_rows=rows, vocab_size=vocab, num_models=len(logits))
        for k, (x, w) in enumerate(zip(logits, weights, strict=True)):
            step.logits[k], step.weights[k] = Logits(*x), real(w)
        step.temperature = step.top_p = Real(None, 0, 1.0)
        step.bias, step.bias_row_stride = bias
        step.token_bitmask, step.token_bitmask_row_stride = token_bitmask
        step.special = SpecialTokens(*special)
        step.conservative, step.conservative_drop = conservative[0], conservative[1]
        step.conservative_top_p = real(conservative[2])
        return step

    def _check(self, code: int) -> None:
        if code:
            message = self._library.eft_last_error().decode()
            raise AssertionError(f"{self.launch}: {message}" if code == 3 else f"code {code}: {message}")


@dataclass
class Prepared:
    """The native module's class: a step whose addresses may be replaced."""

    host: HostCuda
    step: Step

    def run(self, isa: int, tokens: int) -> None:
        self.step.tokens = tokens
        self.host.run(self.step)

    def run_next(self, isa: int, tokens: int, seed: int, position: int, *logits: int) -> None:
        for k, data in enumerate(logits):
            self.step.logits[k].data = data
        self.step.seed, self.step.position = Integer(None, seed), Integer(None, position)
        self.run(isa, tokens)


@dataclass
class PreparedVerify:
    """The native module's Verification."""

    host: HostCuda
    verify: Verify

    def run(self, isa: int) -> None:
        self.host.run_verify(self.verify)


@dataclass
class PreparedScore:
    """The native module's class: a scoring call."""

    host: HostCuda
    call: ScoreCall

    def run(self, isa: int) -> None:
        self.host.score(self.call)


@functools.cache
def library(name: str = "hostcuda") -> HostCuda:
    """The library as `make test` builds it, or with races as `make test-all` does."""
    return HostCuda(built(f"lib{name}.so", name))


def built(name: str, target: str) -> Path:
    """A library of `csrc/emulator`, built now if it is not there; EFT_HOSTCUDA names another folder."""
    build = Path(os.environ.get("EFT_HOSTCUDA", ROOT / "build" / "ctest" / "csrc" / "emulator"))
    path = build / name
    if not path.exists():
        _build(target)
    if not path.exists():
        pytest.skip(f"{path} is not built: make test-all builds it")
    return path


def _build(target: str) -> None:
    if not shutil.which("cmake") or not shutil.which("ninja"):
        return
    build = ROOT / "build" / "ctest"
    options = ["-DEFT_PYTHON=OFF", "-DEFT_TESTS=ON", "-DEFT_CUDA=OFF", "-DEFT_SANITIZE=ON"]
    subprocess.run(["cmake", "-G", "Ninja", "-S", ROOT, "-B", build, *options], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build, "--target", target], check=True)
