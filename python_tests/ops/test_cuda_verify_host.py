"""The CUDA verification, compiled for the CPU and run thread by thread in random orders, decides as the CPU's does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from eft_ext.ops import VerifyResult, fused_verify
from python_tests.helpers.drafts import EFT, blocks, propose, same
from python_tests.helpers.host_cuda import KINDS, HostCuda, Launch, library
from python_tests.helpers.rows import ROWS, STEP_OPTIONS

DTYPES = (torch.bfloat16, torch.float32, torch.float16)
WEIGHTS = ([1.0], [1.5, -0.5], EFT, [1.0, 0.25, 0.5, -0.75])
LENIENT = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}


@pytest.fixture(scope="module")
def host() -> HostCuda:
    return library()


def launches(start: int = 0) -> Iterator[Launch]:
    """Every number of blocks, and the library's; another order of threads each time."""
    for seed, blocks_of_row in enumerate(itertools.cycle((1, 2, 3, 0, 5))):
        yield Launch(start + seed, "streaming" if blocks_of_row else "chosen", blocks_of_row)


def check(host: HostCuda, launch: Launch, *call: Any, **options: Any) -> VerifyResult:
    """The CPU's result, which the kernels' must equal."""
    want = fused_verify(*call, backend="cpu", **options)
    host.launch = launch
    with host.installed():
        got = fused_verify(*call, backend="cpu", **options)
    assert same(got, want), f"{launch}: {[x.tolist() for x in got]} is not {[x.tolist() for x in want]}"
    return want


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_row(host: HostCuda, name: str) -> None:
    """With every set of options, of which the draft model has its own in turn; K, k, V, dtype, lengths vary."""
    sets, seeds = list(STEP_OPTIONS.values()), torch.arange(3) + 11
    orders = launches(100 * list(ROWS).index(name))
    for n, options in enumerate(sets):
        count, k, vocab = 1 + n % 4, 1 + n % 5, (1000, 1025, 31, 2500)[n // 2 % 4]
        logits = blocks(name, count, 3, k, vocab, DTYPES[n % 3], seed=n)
        draft_logits = logits[-1][:, :k]
        own = options if n % 2 else sets[n * 5 % len(sets)]
        drafts = propose(draft_logits, seeds, 7, **own).clamp(min=0)
        asked = {f"draft_{key}": value for key, value in {**LENIENT, **own}.items()}
        lengths = torch.tensor([k, n % (k + 1), k]) if n % 3 else None
        call = (drafts, draft_logits, logits, WEIGHTS[count - 1])
        check(host, next(orders), *call, seed=seeds, position=7, lengths=lengths, **options, **asked)


def nearly_right(
    vocab: int, batch: int, k: int, seed: int = 0, **options: float
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call whose proposals mostly stand, so that later positions, residuals and bonus tokens are reached."""
    logits, seeds = blocks("lm", 3, batch, k, vocab, torch.bfloat16, seed=seed), torch.arange(batch)
    drafts = propose(logits[1][:, :k], seeds, **options)
    return (drafts, logits[1][:, :k], logits, [0.4, 0.7, -0.1]), {"seed": seeds, "position": 0, **options}


@pytest.mark.slow
def test_drafts_that_are_nearly_right(host: HostCuda) -> None:
    outcomes: set[int] = set()
    orders = launches(7)
    for n, options in enumerate(({}, {"temperature": 0.7, "top_p": 0.95}, {"top_k": 50}, {"min_p": 0.01})):
        call, rest = nearly_right(1700, 8, 4, n, **options)
        for weights in (call[3], [2.0, -1.0, 0.5]):
            outcomes |= set(check(host, next(orders), *call[:3], weights, **rest).num_accepted.tolist())
    assert outcomes == {0, 1, 2, 3, 4}


@pytest.mark.slow
@pytest.mark.parametrize("outside", ["keep", "drop"])
def test_conservative_masks_and_bias(host: HostCuda, outside: str) -> None:
    batch, k, vocab = 4, 3, 1100
    logits, seeds = blocks("lm", 3, batch, k, vocab, torch.bfloat16), torch.arange(batch)
    noise = torch.Generator().manual_seed(1)
    shared = {
        "bias": torch.randn(batch, vocab, generator=noise),
        "token_bitmask": torch.randint(-(2**31), 2**31, (batch, k + 1, 35), generator=noise, dtype=torch.int64).int(),
    }
    logits[0][2, 1, 7] = torch.nan  # one model alone spoils a normaliser
    nuclei = torch.tensor([0.9, 0.5, 0.9, 1.0])
    orders = launches(3)
    for extras, nucleus in itertools.product(({}, shared), (0.9, nuclei)):
        call = (propose(logits[1][:, :k], seeds), logits[1][:, :k], logits, [1.2, 1.0, -1.2])
        conservative = {"conservative_top_p": nucleus, "conservative_outside": outside, "seed": seeds, "position": 0}
        found = check(host, next(orders), *call, **conservative, **extras)
        assert (found.status[[0, 1, 3]] == 0).all()
        one_mask = {**extras, "token_bitmask": shared["token_bitmask"][:, 0]}
        check(host, next(orders), *call, seed=seeds, position=0, **one_mask)


def test_every_option_may_differ_from_row_to_row(host: HostCuda) -> None:
    batch, k = 5, 3
    logits, seeds = blocks("lm", 4, batch, k, 900), torch.arange(batch) * 3
    options: dict[str, Tensor] = {
        "temperature": torch.tensor([0.0, 0.7, 1.0, 1.3, 1.0]),
        "top_p": torch.tensor([0.9, 1.0, 0.8, 0.5, 0.0]),
        "top_k": torch.tensor([0, 5, 0, 50, 1]),
        "min_p": torch.tensor([0.0, 0.0, 0.1, 0.0, 0.0]),
        "draft_temperature": torch.tensor([1.0, 0.0, 1.0, 0.5, 0.0]),
        "draft_top_k": torch.tensor([0, 0, 3, 7, 1]),
        "lengths": torch.tensor([3, 2, 0, 1, 3]),
        "position": torch.tensor([0, 5, 2**40, 1, 9]),
    }
    weights = torch.tensor([[1.0, 0.5, 0.5, -1.0]]).repeat(batch, 1) * torch.linspace(0.5, 1.0, batch)[:, None]
    drafts = propose(logits[1][:, :k], seeds, options["position"], temperature=options["draft_temperature"])
    for _, launch in zip(range(3), launches(20), strict=False):
        check(host, launch, drafts, logits[1][:, :k], logits, weights, seed=seeds, **options)


def test_what_is_bad_spoils_its_row_only(host: HostCuda) -> None:
    batch, k = 11, 2
    logits, seeds = blocks("flat", 3, batch, k, 300), torch.arange(batch)
    drafts = propose(logits[1][:, :k], seeds)
    draft_logits = logits[1][:, :k].clone()
    draft_logits[0, 1, 3] = torch.nan
    logits[1][1, 0, 5] = torch.inf
    logits[2][2, 2, :] = -torch.inf
    drafts[3, 0], drafts[4, 1] = 300, -1
    lengths = torch.tensor([2, 2, 2, 2, 2, 3, -1, 2, 2, 2, 2])
    heat, own_heat, positions = torch.ones(batch), torch.ones(batch), torch.zeros(batch, dtype=torch.int64)
    heat[7], own_heat[8], positions[10] = torch.nan, -1.0, -4
    options = {"temperature": heat, "draft_temperature": own_heat, "lengths": lengths, "seed": seeds}
    call = (drafts, draft_logits, logits, [0.0, 1.0, 0.0])
    for _, launch in zip(range(4), launches(60), strict=False):
        found = check(host, launch, *call, position=positions, **options)
    assert found.status.tolist() == [1] * 9 + [0, 1]


def test_logits_behind_a_rejection_may_hold_anything(host: HostCuda) -> None:
    logits = blocks("lm", 3, 12, 3, 400)
    for x in logits:
        x[:, 2:] = torch.nan
    drafts = propose(logits[1][:, :3], 1).clamp(min=0)
    drafts[:, 2] = -7
    for heat, launch in zip((0.0, 1.0), launches(80), strict=False):
        found = check(host, launch, drafts, logits[1][:, :3], logits, EFT, temperature=heat, seed=1, position=0)
        assert 0 < found.status.sum() < 12


@pytest.mark.slow
def test_an_empty_residual_falls_back_on_the_mixture(host: HostCuda) -> None:
    """p exceeds q nowhere by a unit: q is p but for a token so rare that its share rounds away."""
    vocab, seeds = 1500, torch.arange(400)
    x = torch.zeros(1, 2, vocab)
    x[..., 77] = -27.5  # about 2^-39.7: a mass of one unit
    draft, mixed = x[:, :1].expand(400, 1, -1), x.clone()
    mixed[..., 77] = -torch.inf
    drafts = torch.full((400, 1), 77)
    found = check(
        host, Launch(5, "streaming", 2), drafts, draft, [mixed.expand(400, 2, -1)], [1.0], seed=seeds, position=0
    )
    assert (found.num_accepted == 0).all()
    assert (found.tokens[:, 0] != 77).all()
    assert len(found.tokens[:, 0].unique()) > 200


@pytest.mark.slow
@pytest.mark.parametrize("depth", [12, 25, 38])
def test_a_residual_far_below_the_largest_token(host: HostCuda, depth: int) -> None:
    """p and q share their head; only p has a tail, `depth` powers of two below it, and that is all of the residual."""
    seeds, tail = torch.arange(40), -depth * 0.6931472
    mixed, draft = torch.full((1, 2, 3500), tail), torch.full((1, 1, 3500), -torch.inf)
    mixed[..., 5], draft[..., 5] = 0.0, 0.0
    mixed[..., 77], draft[..., 77] = -torch.inf, tail  # proposed, and never accepted
    call = (torch.full((40, 1), 77), draft.expand(40, 1, -1), [mixed.expand(40, 2, -1)], [1.0])
    found = check(host, Launch(depth, "streaming", 3), *call, seed=seeds, position=0)
    assert (found.num_accepted == 0).all()
    assert (found.tokens[:, 0] != 5).all()
    assert len(found.tokens[:, 0].unique()) > 30


@pytest.mark.slow
def test_supports_that_do_not_meet_and_drafts_that_are_certain(host: HostCuda) -> None:
    even, odd = torch.zeros(1, 1, 1500), torch.zeros(1, 1, 1500)
    even[..., 1::2], odd[..., ::2] = -torch.inf, -torch.inf
    even, odd, seeds = even.expand(30, 3, -1), odd.expand(30, 3, -1), torch.arange(30)
    drafts = propose(even[:, :2], seeds)
    found = check(host, Launch(1, "streaming", 2), drafts, even[:, :2], [odd], [1.0], seed=seeds, position=0)
    assert (found.tokens[:, 0] % 2 == 1).all()

    logits = blocks("lm", 3, 30, 3, 90)
    drafts = propose(logits[1][:, :3], seeds, temperature=0.0)
    certain = {"draft_temperature": 0.0, "seed": seeds, "position": 0}
    outcomes = check(host, Launch(2), drafts, None, logits, [0.3, 1.0, 0.0], **certain)
    assert len(outcomes.num_accepted.unique()) > 2


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [32000, 50257, 128256])
def test_whole_vocabularies(host: HostCuda, vocab: int) -> None:
    """At an even and at an odd stride; rejected at once, and nearly right."""
    for n, options in enumerate(({}, {"top_p": 0.9})):
        call, rest = nearly_right(vocab, 1, 2, n, **options)
        for weights in ([0.0, 1.0, 0.0], EFT):
            check(host, Launch(vocab + n, "chosen"), *call[:3], weights, **rest)


@pytest.mark.slow
def test_more_rows_than_one_launch_takes(host: HostCuda) -> None:
    """3 drafts are 7 slots a row, of which a launch has 3072: 438 rows, and then 7."""
    batch, k = 445, 3
    logits, seeds = blocks("lm", 1, batch, k, 40), torch.arange(batch)
    drafts = propose(logits[0][:, :k] * 0.5, seeds)
    lengths = torch.where(seeds % 11 == 4, k, 0)  # a thread of a slot that is not wanted ends at once
    rest = {"lengths": lengths, "seed": seeds, "position": 0}
    check(host, Launch(1, "streaming", 1), drafts, logits[0][:, :k] * 0.5, logits, [1.0], **rest)


@pytest.mark.slow
def test_what_is_not_wanted_is_not_read(host: HostCuda) -> None:
    """Bytes of 16-byte loads: positions behind a row's last proposal and certain drafts cost nothing; where all stand
    everything is read once, and again no more than a sixteenth (the drawn tile, the head's groups)."""
    vocab, k, count = 128 * 1024, 2, 2
    (drafts, draft_logits, logits, _), rest = nearly_right(vocab, 1, k, top_p=0.9)
    logits, weights = [x.contiguous() for x in (logits[1], logits[0])], [1.0, 0.0]
    once = 2 * vocab  # of one model at one position
    draft_logits = draft_logits.clone()
    cases = (({}, (k + 1) * count + k), ({"lengths": 1}, 2 * count + 1), ({"lengths": 0}, count))
    for n, (extras, rows) in enumerate((*cases, ({"temperature": 0.0, "draft_temperature": 0.0}, (k + 1) * count))):
        options = {**rest, **extras}
        if "temperature" in extras:
            drafts = logits[0][:, :k].float().argmax(-1)
        found = check(host, Launch(n, "streaming", 5), drafts, draft_logits, logits, weights, **options)
        assert found.num_accepted.item() == extras.get("lengths", k)
        assert 1 <= host.bytes_loaded / (rows * once) < 1 + 1 / 16, (extras, host.bytes_loaded / once, rows)
