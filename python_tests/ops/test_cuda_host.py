"""The CUDA kernels, compiled for the CPU and run thread by thread in random orders, draw the CPU step's tokens.

EFT_FUZZ_SECONDS=600 pytest python_tests/ops/test_cuda_host.py -s searches that long with fresh examples.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import Phase, given, settings

from eft_ext.ops import StepDetails, combine, fused_mix, fused_step
from python_tests.golden.make import PATH, call
from python_tests.helpers.fuzzing import COMMON, SECONDS, search
from python_tests.helpers.host_cuda import KINDS, HostCuda, Launch, library
from python_tests.helpers.rows import ROWS, STEP_OPTIONS, models
from python_tests.helpers.slow_params import slowly
from python_tests.helpers.step_problems import Problem, large_problems, problems

GOLDEN = json.loads(PATH.read_text())
EXACT = ("tokens", "num_kept", "top_ids", "status")
CLOSE = ("logprobs", "raw_logprobs", "model_logprobs", "entropy", "top_logprobs")


@pytest.fixture(scope="module")
def host() -> HostCuda:
    return library()


def launches(start: int = 0) -> Iterator[Launch]:
    """Both kernels, every number of blocks, both instantiations, another order of threads each time."""
    choices = [("streaming", n) for n in (1, 2, 3, 7)] + [("resident", n) for n in (1, 2, 4, 8, 16)] + [("chosen", 0)]
    for seed, ((kernel, blocks), bf16) in enumerate(itertools.cycle(itertools.product(choices, (True, False)))):
        yield Launch(start + seed, kernel, blocks, bf16)


def assert_same(got: StepDetails, want: StepDetails, what: str) -> None:
    """Integers bit for bit; floats to 1e-5, or alike infinite or NaN."""
    for name in EXACT:
        x, y = getattr(got, name), getattr(want, name)
        assert torch.equal(x, y), f"{what}: {name} {x.tolist()} is not {y.tolist()}"
    for name in CLOSE:
        x, y = getattr(got, name), getattr(want, name)
        close = (x == y) | (x.isnan() & y.isnan()) | ((x - y).abs() <= 1e-4 + 1e-5 * y.abs())
        assert close.all(), f"{what}: {name} {x[~close].tolist()} is not {y[~close].tolist()}"


@pytest.mark.parametrize("part", [0, *slowly(*range(1, 11))])
def test_golden_vectors(host: HostCuda, part: int) -> None:
    with host.installed():
        for problem, host.launch in zip(GOLDEN[part::11], launches(20 * part), strict=False):
            if problem["batch"] > 8:  # too many threads for a machine of one
                host.launch = Launch(host.launch.seed)
            what = f"{host.launch}: { {k: v for k, v in problem.items() if k != 'expected'} }"
            tokens = call(problem, backend="cpu", return_details=False)
            assert tokens.tolist() == problem["expected"]["tokens"], what
            found = call(problem, backend="cpu")
            for name, want in problem["expected"].items():
                assert getattr(found, name).tolist() == want, f"{what}: {name}"


def check(host: HostCuda, problem: Problem, launch: Launch) -> None:
    """With details, without them, and the mixture's logits."""
    num_top = problem.options.get("top_logprobs", 0)
    bare = {"return_details": False, "top_logprobs": 0}
    extras = {k: problem.options[k] for k in ("bias", "token_bitmask", "vocab_size") if k in problem.options}
    want = problem.run("cpu")
    z = None if problem.conservative else combine(problem.logits, problem.weights, backend="cpu", **extras)
    host.launch = launch
    with host.installed():
        assert_same(problem.run("cpu"), want, str(launch))
        tokens = problem.run("cpu", **bare)
        assert torch.equal(tokens, want.tokens), f"{launch}: {tokens.tolist()} is not {want.tokens.tolist()}"
        if z is not None:
            own = combine(problem.logits, problem.weights, backend="cpu", **extras)
            assert torch.equal(torch.nan_to_num(own, nan=12345.0), torch.nan_to_num(z, nan=12345.0)), f"{launch}: z"
    assert num_top == want.top_ids.shape[1]


ORDERS = launches(10_000)


@pytest.mark.slow
@pytest.mark.skipif(SECONDS > 0, reason="the long search runs instead")
@settings(max_examples=150, derandomize=True, phases=(Phase.explicit, Phase.generate, Phase.shrink), **COMMON)
@given(problem=problems())
def test_made_up_calls(problem: Problem) -> None:
    check(library(), problem, next(ORDERS))


@pytest.mark.slow
@pytest.mark.skipif(SECONDS > 0, reason="the long search runs instead")
@settings(max_examples=15, derandomize=True, phases=(Phase.explicit, Phase.generate, Phase.shrink), **COMMON)
@given(problem=large_problems())
def test_made_up_rows_of_large_vocabularies(problem: Problem) -> None:
    check(library(), problem, next(ORDERS))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_row(host: HostCuda, name: str) -> None:
    orders = launches(100 * list(ROWS).index(name))
    for (options, values), vocab in zip(STEP_OPTIONS.items(), itertools.cycle((1000, 2500)), strict=False):
        dtype = (torch.bfloat16, torch.float16, torch.float32)[len(options) % 3]
        logits = models(name, 3, 2, vocab, dtype)
        want = fused_step(*logits, seed=3, position=4, backend="cpu", **values)
        host.launch = next(orders)
        with host.installed():
            tokens = fused_step(*logits, seed=3, position=4, backend="cpu", **values)
        assert torch.equal(tokens, want), f"{name} {options} {vocab} {host.launch}"


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [32000, 128256, 151936, 256000])
def test_whole_vocabularies(host: HostCuda, vocab: int) -> None:
    """Both kernels over rows as long as they come, the resident one in a cluster that holds them."""
    logits = models("lm", 3, 1, vocab, torch.bfloat16, seed=vocab)
    cluster = max(2, 1 << (vocab // 32_000).bit_length())
    for options in ({"top_p": 0.9}, {"temperature": 0.0}, {"top_k": 50, "top_p": 0.9, "min_p": 0.05}):
        want = fused_step(*logits, seed=1, position=2, backend="cpu", **options)
        for host.launch in (
            Launch(vocab, "streaming", 6),
            Launch(vocab + 1, "resident", min(cluster, 16)),
            Launch(vocab + 2),
        ):
            before = host.streamed_instead
            with host.installed():
                assert torch.equal(fused_step(*logits, seed=1, position=2, backend="cpu", **options), want)
            assert host.streamed_instead == before


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.9}])
def test_the_usual_row_is_read_once(host: HostCuda, count: int, options: dict[str, float]) -> None:
    """16-byte loads: every input once, and again no more than a sixteenth (the drawn tile, the head's groups)."""
    vocab = 128 * 1024
    logits = [x.contiguous() for x in models("lm", count, 1, vocab, torch.bfloat16)]
    assert all(x.data_ptr() % 16 == 0 for x in logits)
    once = 2 * count * vocab
    for host.launch in (Launch(1, "streaming", 5), Launch(2, "resident", 8)):
        with host.installed():
            fused_mix(logits, [1.0] * count, seed=1, position=1, backend="cpu", **options)
        again = host.bytes_loaded - once
        assert 0 <= again <= (0 if host.launch.kernel == "resident" else once / 16), (
            f"{host.launch}: {again} bytes of {once} again"
        )


def test_counts_are_of_the_last_call_and_of_all_its_launches(host: HostCuda) -> None:
    logits = models("lm", 3, 1, 1100, torch.bfloat16)
    for kernel, options, before_ticket in (
        ("streaming", {"conservative_top_p": 0.9}, 2 * 2),  # the models' nuclei first
        ("streaming", {}, 2),
        ("resident", {}, 0),  # no ticket
    ):
        host.launch = Launch(1, kernel, 2)
        with host.installed():
            fused_step(*logits, seed=1, position=1, backend="cpu", **options)
        assert host.counts.read_block_barriers == before_ticket
        assert (host.counts.cluster_barriers > 0) == (kernel == "resident")
        assert host.counts.block_barriers > 0
        assert host.counts.round_trips > 0


@pytest.mark.slow
def test_shared_and_global_memory_without_races() -> None:
    """Every access of the kernels passes a detector that knows barriers, fences and tickets."""
    host = library("hostcuda_races")
    assert host.detects_races
    with host.installed():
        for problem, host.launch in zip([p for p in GOLDEN if p["vocab"] <= 5000][::3], launches(500), strict=False):
            found = call(problem, backend="cpu")
            assert found.tokens.tolist() == problem["expected"]["tokens"]
            tokens = call(problem, backend="cpu", return_details=False)
            assert tokens.tolist() == problem["expected"]["tokens"]


@pytest.mark.slow
@pytest.mark.skipif(not SECONDS, reason="EFT_FUZZ_SECONDS is not set")
@pytest.mark.parametrize("name", ["hostcuda", "hostcuda_races"])
def test_search(name: str) -> None:
    """Rounds of fresh examples and orders until the time is up, half of it on each build."""
    orders = launches(random.SystemRandom().randrange(2**40))
    made = ((problems(), 100), (large_problems(), 4))
    search(lambda problem: check(library(name), problem, next(orders)), made, SECONDS / 2)
