"""The CUDA kernels of scoring, compiled for the CPU and run thread by thread in random orders, beside float64.

EFT_FUZZ_SECONDS=600 pytest python_tests/ops/test_cuda_score_host.py searches about that long.
"""

from __future__ import annotations

import itertools
import math
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from eft_ext import Score, fused_score, fused_score_mix, reference
from python_tests.helpers.host_cuda import KINDS, HostCuda, Launch, library
from python_tests.helpers.rows import models
from python_tests.helpers.step_problems import Problem, large_problems, problems
from python_tests.ops.test_score import WEIGHTS, assert_agrees, assert_changes, some_targets
from python_tests.ops.test_score_fuzz import assert_like_the_reference, run

SECONDS = float(os.environ.get("EFT_FUZZ_SECONDS", 0))
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LISTS = {"num_top": 4, "num_changed": 3}


@pytest.fixture(scope="module")
def host() -> HostCuda:
    return library()


ORDERS = (Launch(seed, "streaming", blocks) for seed, blocks in enumerate(itertools.cycle((1, 2, 3, 7))))


def same_bits(a: Score, b: Score, what: str = "") -> None:
    for name, x in a._asdict().items():
        assert torch.equal(torch.nan_to_num(x, nan=12345.0), torch.nan_to_num(getattr(b, name), nan=12345.0)), (
            f"{what}: {name}"
        )


def aligned(logits: list[Tensor]) -> list[Tensor]:
    """Rows on 16-byte boundaries, as the fast path wants them."""
    width = (logits[0].shape[1] + 7) // 8 * 8
    wide = [torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in logits]
    return [w[:, : x.shape[1]] for w, x in zip(wide, logits, strict=True)]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_row(host: HostCuda, name: str) -> None:
    cases = itertools.product((1, 31, 1025, 3000), WEIGHTS.items())
    for i, (vocab, (count, weights)) in enumerate(cases):
        logits = models(name, count, 3, vocab, DTYPES[i % 3] if vocab < 3000 else torch.bfloat16, i)
        logits = aligned(logits) if vocab == 3000 else logits
        targets = some_targets(3, vocab, i)
        host.launch = next(ORDERS)
        with host.installed():
            got = fused_score_mix(logits, weights, targets, compared=count - 1, **LISTS, backend="cpu")
        want = reference.score(logits, weights, targets, compared=count - 1, **LISTS)
        assert_agrees(got, want)
        assert_changes(got, logits, weights, count - 1)


@pytest.mark.parametrize("vocab", [3000, 32001, 128256])
def test_neither_grid_nor_order_changes_a_bit(host: HostCuda, vocab: int) -> None:
    """Nor does it matter that the CPU adds in another order, within the tolerance."""
    logits, targets = models("lm", 3, 1, vocab, torch.bfloat16, seed=1), some_targets(1, vocab)
    found = []
    for host.launch in (Launch(0), Launch(1, "streaming", 1), Launch(2, "streaming", 5)):
        with host.installed():
            found.append(fused_score(*logits, targets, **LISTS, backend="cpu"))
    for launch, other in enumerate(found[1:]):
        same_bits(found[0], other, f"launch {launch}")
    assert_agrees(found[0], fused_score(*logits, targets, **LISTS, backend="cpu"))


@pytest.mark.parametrize("gap", [1.0, 17.0, 30.0, 60.0, 100.0, 1000.0, 1e5])
def test_certain_tokens_keep_their_digits(host: HostCuda, gap: float) -> None:
    logits = torch.randn(4, 2500, generator=torch.Generator().manual_seed(1))
    hot = torch.tensor([0, 1023, 1024, 2499])
    logits[range(4), hot] = logits.amax(1) + gap
    host.launch = next(ORDERS)
    for targets in (hot, (hot + 1) % 2500):
        with host.installed():
            got = fused_score_mix([logits], [1.0], targets, backend="cpu")
        want = reference.score([logits], [1.0], targets)
        for name in ("logprobs", "log1m_max"):
            torch.testing.assert_close(getattr(got, name).double(), getattr(want, name), rtol=2e-6, atol=2e-45)
        assert (got.max_prob <= 1).all()


def test_one_token_alone(host: HostCuda) -> None:
    for x in (torch.zeros(1, 1), torch.tensor([[-math.inf, 3.0, -math.inf]])):
        with host.installed():
            got = fused_score_mix([x], [1.0], torch.tensor([x.shape[1] // 2]), num_top=2, backend="cpu")
        assert got.logprobs.tolist() == [[0.0, 0.0]]
        assert got.log1m_max.tolist() == [[-math.inf, -math.inf]]
        assert got.entropy.tolist() == [[0.0, 0.0]]
        assert got.top_ids.tolist() == [[[x.shape[1] // 2, -1]] * 2]
        assert got.top_logprobs.tolist() == [[[0.0, -math.inf]] * 2]


@pytest.mark.slow
def test_whole_ranks_in_order(host: HostCuda) -> None:
    """Lists as long as the vocabulary and longer, with ties everywhere."""
    for name in ("bf16_ties", "two_level", "masked", "equal"):
        logits, targets = models(name, 3, 2, 1100, torch.bfloat16), some_targets(2, 1100)
        options = {"num_top": 1102, "num_changed": 1102}
        host.launch = next(ORDERS)
        with host.installed():
            got = fused_score(*logits, targets, **options, backend="cpu")
        want = fused_score(*logits, targets, **options, backend="cpu")
        assert_agrees(got, want)
        for field in ("up_ids", "down_ids"):
            assert torch.equal(getattr(got, field), getattr(want, field)), f"{name} {field}"


def test_conservative(host: HostCuda) -> None:
    logits, targets = models("lm", 3, 6, 2100, torch.bfloat16), some_targets(6, 2100)
    targets[3] = -100
    logits[0][5, logits[1][5].argmin()] = math.nan  # outside the nucleus: the mixture is finite there
    for top_p, outside in itertools.product((0.9, torch.tensor([0.5, 1.0, 0.9, 0.9, 2.0, 0.9])), ("keep", "drop")):
        options = {"conservative_top_p": top_p, "conservative_outside": outside, "scale": 1.5, **LISTS}
        host.launch = next(ORDERS)
        with host.installed():
            got = fused_score(*logits, targets, **options, backend="cpu")
        assert got.status.tolist() == [0, 0, 0, 2, int(isinstance(top_p, Tensor)), 1]
        assert_agrees(got, fused_score(*logits, targets, **options, backend="reference"))


def test_bad_and_ignored_rows_leave_their_neighbours_alone(host: HostCuda) -> None:
    logits, targets = models("lm", 3, 8, 1500), some_targets(8, 1500)
    logits[0][1, 700] = math.nan
    logits[1][2, 1499] = math.inf
    logits[2][3] = -math.inf
    targets[4], targets[5], targets[6] = -100, 1500, -1
    host.launch = next(ORDERS)
    with host.installed():
        got = fused_score(*logits, targets, **LISTS, backend="cpu")
    assert got.status.tolist() == [0, 1, 1, 1, 2, 1, 1, 0]
    assert_agrees(got, fused_score(*logits, targets, **LISTS, backend="reference"))
    weights = torch.ones(8)
    weights[0] = math.nan
    with host.installed():
        got = fused_score(*models("lm", 3, 8, 1500), some_targets(8, 1500), beta=weights, backend="cpu")
    assert got.status.tolist() == [1] + [0] * 7


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_row_is_read_once(host: HostCuda, count: int) -> None:
    """16-byte loads: every input once, and again the tile of each distribution's largest token."""
    vocab = 64 * 1024
    logits = models("lm", count, 1, vocab, torch.bfloat16)
    host.launch = Launch(1, "streaming", 3)
    with host.installed():
        fused_score_mix(logits, WEIGHTS[count], some_targets(1, vocab), backend="cpu", num_changed=0)
    once, tile = 2 * count * vocab, 2 * 1024
    second = (count + 1) * 2 * vocab  # tv and kl: the models for the mixture, and the compared one
    again = host.bytes_loaded - once - second
    assert 0 <= again <= 2 * count * tile + 8 * 16 * (count + 1), again
    with host.installed():
        fused_score_mix(logits, WEIGHTS[count], torch.tensor([-100]), backend="cpu")
    assert host.bytes_loaded == 0


def checked(problem: Problem, name: str, seed: int, listed: int) -> None:
    batch, size = problem.logits[0].shape[0], problem.options["vocab_size"]
    targets = torch.randint(-2, size + 1, (batch,), generator=torch.Generator().manual_seed(seed))
    options = {"num_top": listed, "num_changed": listed, "ignore_index": -2}
    host = library(name)
    host.launch = next(ORDERS)
    with host.installed():
        got = run(problem, targets, "cpu", **options)
    assert_like_the_reference(got, run(problem, targets, "reference", **options))


@pytest.mark.slow
@settings(max_examples=int(SECONDS * 10) or 150, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems(), st.integers(0, 2**16), st.integers(0, 3))
def test_made_up_calls(problem: Problem, seed: int, listed: int) -> None:
    checked(problem, "hostcuda", seed, listed)


@pytest.mark.slow
@settings(max_examples=int(SECONDS) or 15, deadline=None, suppress_health_check=list(HealthCheck))
@given(large_problems(), st.integers(0, 2**16), st.integers(0, 3))
def test_made_up_rows_of_large_vocabularies(problem: Problem, seed: int, listed: int) -> None:
    checked(problem, "hostcuda", seed, listed)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems(), st.integers(0, 2**16), st.integers(0, 3))
def test_shared_and_global_memory_without_races(problem: Problem, seed: int, listed: int) -> None:
    assert library("hostcuda_races").detects_races
    checked(problem, "hostcuda_races", seed, listed)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"conservative_top_p": 0.9, "scale": 1.5}])
def test_rows_of_many_tiles_and_blocks_without_races(options: dict[str, float]) -> None:
    host, targets = library("hostcuda_races"), some_targets(2, 9000)
    for dtype, host.launch in ((torch.bfloat16, Launch(1, "streaming", 3)), (torch.float32, Launch(5, "streaming", 2))):
        logits = models("one_hot", 3, 2, 9000, dtype)
        with host.installed():
            got = fused_score(*logits, targets, **options, **LISTS, backend="cpu")
        assert_agrees(got, fused_score(*logits, targets, **options, **LISTS, backend="reference"))
