"""The CUDA step's finish at the limits of its lists: the CPU step's results, and no more waits than known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from eft_ext.ops import fused_mix, fused_step
from python_tests.helpers.host_cuda import Counts, HostCuda, Launch, library
from python_tests.helpers.rows import models
from python_tests.helpers.slow_params import slowly, slowly_but
from python_tests.ops.test_cuda_host import assert_same

UNIT = 1 / math.log(2)  # the temperature at which t is z
MANY = 2048  # candidates at most
FINALISTS = 256  # tokens ranked against each other; survivors listed of the drawn tile
STREAMING, ANY_DTYPES = Launch(kernel="streaming", blocks=3), Launch(kernel="streaming", blocks=1, bf16_kernel=False)
CLUSTERS = {n: Launch(kernel="resident", blocks=n, bf16_kernel=n != 16) for n in (2, 4, 8, 16)}
SEEDS = itertools.count(1)


@pytest.fixture(scope="module")
def host() -> HostCuda:
    return library()


def row(vocab: int, at: Tensor | slice, values: Tensor | float, rest: float = -30.0) -> Tensor:
    """bf16 logits [1, vocab]: `values` at some ids, `rest` elsewhere."""
    x = torch.full((1, vocab), rest)
    x[:, at] = torch.as_tensor(values)
    return x.bfloat16()


def falling(count: int) -> Tensor:
    """Values down to 11 powers of two below 0, in a random order."""
    return -7.6 * torch.rand(count, generator=torch.Generator().manual_seed(count))


def scattered(count: int, vocab: int) -> Tensor:
    return torch.randperm(vocab, generator=torch.Generator().manual_seed(vocab))[:count]


def compare(
    host: HostCuda, logits: list[Tensor], weights: list[float], *launches: Launch, **options: Any
) -> list[Counts]:
    """Checks each launch with details and without, and returns its counts without."""
    call: dict[str, Any] = {"seed": next(SEEDS), "position": 7, "backend": "cpu", **options}

    def run(**more: Any) -> Any:
        if "conservative_top_p" in options:
            return fused_step(*logits, **{**call, **more})
        return fused_mix(logits, weights, **{**call, **more})

    want, found = run(return_details=True), []
    if logits[0].shape[1] <= 3200:
        assert torch.equal(run(backend="reference", top_logprobs=0), want.tokens)
    for launch in launches:
        host.launch = Launch(next(SEEDS), launch.kernel, launch.blocks, launch.bf16_kernel)
        with host.installed():
            if launch.kernel == "streaming":
                assert_same(run(return_details=True), want, f"{host.launch} {options}")
            assert torch.equal(run(top_logprobs=0), want.tokens), f"{host.launch} {options}"
            found.append(host.counts)
    return found


@pytest.mark.parametrize("count", [MANY, MANY + 1])
@pytest.mark.parametrize(
    "options", [{"top_p": 0.5}, *slowly({"top_p": 0.999}, {"top_p": 0.99, "min_p": 5e-4}), {"min_p": 5e-4}]
)
def test_as_many_candidates_as_fit(host: HostCuda, count: int, options: dict[str, float]) -> None:
    """One more, and the whole row is read again, by all blocks of a cluster."""
    x = row(5000, scattered(count, 5000), falling(count))
    counts = compare(host, [x], [1.0], STREAMING, ANY_DTYPES, *CLUSTERS.values(), **options)
    assert {c.cluster_barriers <= 4 for c in counts[2:]} == {count == MANY}


@pytest.mark.parametrize("count", [MANY, MANY + 1])
@pytest.mark.parametrize("k", slowly_but((MANY,), (MANY - 1, MANY, MANY + 1)))
def test_as_many_groups_as_candidates_fit(host: HostCuda, count: int, k: int) -> None:
    """Each of the groups holds one candidate, so more of them are not read."""
    groups = torch.arange(count)
    ids = groups // 32 * 1024 + groups % 4 * 256 + groups % 32 * 8 + groups % 8
    x = row(70_001, ids, falling(count).clamp(min=-7.5))
    for options in (
        {"min_p": 5e-4},
        {"top_k": 60},
        {"top_k": 1500},
        {"top_k": k},
        {"top_k": k, "top_p": 0.7, "min_p": 1e-3},
    ):
        _, resident = compare(host, [x], [1.0], STREAMING, CLUSTERS[4], **options)
        is_usual = options.get("top_k", k) < MANY - 1 or (count == MANY and options.get("top_k", 0) <= MANY)
        assert (resident.cluster_barriers <= (5 if "top_k" in options else 4)) == is_usual


@pytest.mark.parametrize("vocab", [MANY - 1, MANY, MANY + 1])
@pytest.mark.parametrize("rest", [-30.0, -math.inf])
def test_k_and_the_vocabulary_at_the_limit(host: HostCuda, vocab: int, rest: float) -> None:
    """k is the vocabulary, the list's end, the number of tokens that are left, or one more or less."""
    x = row(vocab, scattered(vocab - 3, vocab), falling(vocab - 3).mul(4).round(), rest)
    filters: tuple[dict[str, float], ...] = ({}, {"top_p": 0.6}, {"top_p": 0.999}, {"min_p": 1e-3}, {})
    for k, options in zip((vocab - 4, vocab - 3, MANY - 1, MANY, MANY + 1), filters, strict=True):
        compare(host, [x], [1.0], STREAMING, CLUSTERS[2 << k % 4], top_k=k, **options)


def test_k_above_what_is_left(host: HostCuda) -> None:
    """The groups that were counted for k, most in one bin, leave nothing in the survivors' masses."""
    x = row(2100, torch.arange(0, 512, 8), -1.5 / 256, -math.inf)
    x[0, 0] = 0
    compare(host, [x], [1.0], STREAMING, CLUSTERS[2], top_k=2000)


@pytest.mark.parametrize("options", [{"top_p": 0.4}, {"top_k": 300}, {"top_k": 300, "top_p": 0.9, "min_p": 0.9}])
@pytest.mark.parametrize("distinct", [1, 2, 100])
def test_more_finalists_than_are_ranked(host: HostCuda, distinct: int, options: dict[str, float]) -> None:
    """A bin of 700 tokens is divided round after round, the first times in vain."""
    x = torch.full((1, 3100), -4.0)
    x[:, scattered(700, 3100)] = 1.0 - torch.arange(700) % distinct * 2.0**-20
    compare(host, [x], [1.0], STREAMING, CLUSTERS[2], **options)


@pytest.mark.parametrize("count", [FINALISTS, FINALISTS + 1])
def test_more_survivors_of_a_tile_than_are_listed(host: HostCuda, count: int) -> None:
    """The drawn tile is read again: one round trip more."""
    x = row(4100, slice(1100, 1100 + count), falling(count))
    streaming, _ = compare(host, [x], [1.0], STREAMING, CLUSTERS[8], min_p=5e-4)
    assert streaming.round_trips == 3 + (count > FINALISTS)


@pytest.mark.parametrize("too_much", [0, 1])
@pytest.mark.parametrize("min_p", [0.0, *slowly(2.0**-12, 2.0**-13)])
def test_the_bound_gathers_just_the_target(host: HostCuda, too_much: int, min_p: float) -> None:
    """The largest token has top_p's target; a unit of mass more in the row, and it takes one more token."""
    p = torch.tensor(0.9).item()
    tail = 2**72 // int(p * (2**32 - 2**11)) - 2**40 + too_much  # numerics.md §4
    x = torch.full((1, 2100), -torch.inf)
    x[0, 0] = 0.0  # 2^40 units
    exponents = [27] * (tail >> 27) + [i for i in range(27) if tail >> i & 1]
    x[0, 1 : 1 + len(exponents)] = torch.tensor(exponents, dtype=torch.float32) - 40
    options = {"temperature": UNIT, "top_p": p, "min_p": min_p}
    _, resident = compare(host, [x.bfloat16()], [1.0], STREAMING, CLUSTERS[4], **options)
    assert (resident.cluster_barriers <= 4) == (not too_much or min_p == 2.0**-12)


@pytest.mark.parametrize("vocab", slowly_but((7, 1031), (1, 2, 5, 6, 7, 8, 9, 15, 1023, 1025, 1031, 2055, 3073)))
@pytest.mark.parametrize("batch", [1, 2])
def test_rows_on_16_bytes_of_any_length(host: HostCuda, vocab: int, batch: int) -> None:
    """Zeros of both signs, one token left, tiles that are empty, four models; one row, and rows with a stride."""
    stride = vocab if batch == 1 else (vocab + 15) // 8 * 8

    def aligned(x: Tensor) -> Tensor:
        whole = torch.full((batch * stride + 8,), torch.nan, dtype=torch.bfloat16)
        whole = whole[-whole.data_ptr() // 2 % 8 :][: batch * stride].view(batch, stride)
        assert whole.data_ptr() % 16 == 0
        return whole[:, :vocab].copy_(x)

    noise = torch.randn(batch, vocab, generator=torch.Generator().manual_seed(vocab))
    zeros = aligned(torch.where(noise > 0, 0.0, -0.0))
    one = aligned(torch.where(torch.arange(vocab) == vocab * 2 // 3, -0.0, -torch.inf))
    end = aligned(torch.where(torch.arange(vocab) < vocab // 1024 * 1024, torch.finfo(torch.bfloat16).min, noise))
    mixed = [zeros, aligned(noise), end, zeros]
    for used, weights, size in (([zeros], [1.0], 2), ([one], [-1.0], 4), (mixed, [1.0, 1.0, -0.5, 0.0], 8)):
        for options in ({"temperature": 0.0}, {}, {"top_p": 0.5}, {"top_k": 3, "min_p": 0.1}):
            compare(host, used, weights, STREAMING, CLUSTERS[size], **options)


@pytest.mark.parametrize("num_top", [20, *slowly(1, 513, 1025, 1200)])
@pytest.mark.parametrize("conservative", [{}, {"conservative_top_p": 0.8}])
def test_the_first_ids_beside_invalid_rows(host: HostCuda, num_top: int, conservative: dict[str, float]) -> None:
    """One part of the rank, several, and more ids than there are; in three rows, of which one has a NaN."""
    logits = models("bf16_ties", 3, 3, 1100, torch.bfloat16)
    logits[1][1, 5] = torch.nan
    compare(host, logits, [1.0, 1.0, -1.0], STREAMING, ANY_DTYPES, top_logprobs=num_top, top_p=0.9, **conservative)


@pytest.mark.parametrize("vocab", slowly_but((131_073,), (131_072, 131_073, 200_001, 2**19)))
def test_group_maxima_in_several_parts(host: HostCuda, vocab: int) -> None:
    """The head lies in the last part; and a row that is flat, whose parts are all listed one by one."""
    head = row(vocab, slice(vocab - 700, None), falling(700))
    for x, options in (
        (head, {"top_k": 300, "top_p": 0.9}),
        (head, {"min_p": 0.01, "top_logprobs": 600}),
        (torch.zeros_like(head), {"top_p": 0.7}),
    ):
        compare(host, [x], [1.0], Launch(kernel="streaming", blocks=5), CLUSTERS[16], **options)


# Of a row's last block: barriers and round trips when it streams, barriers of the cluster.
WAITS: list[tuple[dict[str, float], int, int, int]] = [
    ({"temperature": 0.0}, 3, 3, 3),
    ({"temperature": 0.7}, 3, 3, 3),
    ({"top_p": 0.9}, 11, 3, 4),
    ({"top_k": 50, "top_p": 0.9}, 20, 3, 5),
    ({"top_k": 50, "temperature": 0.1}, 14, 3, 5),
    ({"min_p": 0.05}, 6, 3, 4),
]


@pytest.mark.parametrize("vocab", [32_000, *slowly(128_256)])
@pytest.mark.parametrize(("options", "barriers", "round_trips", "cluster_barriers"), WAITS)
def test_waits(
    host: HostCuda, vocab: int, options: dict[str, float], barriers: int, round_trips: int, cluster_barriers: int
) -> None:
    """One reading of up to 192 groups, and no barrier more than the page on the CUDA step says."""
    logits = models("lm", 3, 1, vocab, torch.bfloat16)
    streaming, resident = compare(host, logits, [1.0, 0.5, -0.5], STREAMING, CLUSTERS[8], **options)
    assert streaming.block_barriers <= barriers
    assert streaming.round_trips <= round_trips
    assert resident.cluster_barriers <= cluster_barriers
