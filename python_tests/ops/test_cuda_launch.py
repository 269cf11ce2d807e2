"""The launch code of step, verification and scoring, called from Python, on a runtime that checks each of its calls.

The kernels run on the host (`python_tests/helpers/host_launches.py`), and their results are compared with the CPU's.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from eft_ext import fused_score, fused_score_mix
from eft_ext.ops import StepDetails, combine, fused_mix, fused_step, fused_verify
from eft_ext.ops.backends import call_cache
from python_tests.golden import make
from python_tests.helpers.drafts import EFT, blocks, propose
from python_tests.helpers.host_cuda import KINDS
from python_tests.helpers.host_launches import A100, B200, H200, HostLaunches
from python_tests.helpers.rows import ROWS, STEP_OPTIONS, models
from python_tests.helpers.slow_params import slowly
from python_tests.helpers.special_problems import problems as special_problems
from python_tests.ops.test_cuda_host import assert_same
from python_tests.ops.test_score import assert_agrees, some_targets

GOLDEN = json.loads(make.PATH.read_text())
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
OPTIONS = list(STEP_OPTIONS.values())


def golden(problem: dict[str, Any]) -> tuple[StepDetails, Tensor]:
    return make.call(problem, backend="cuda"), make.call(problem, backend="cuda", return_details=False)


@pytest.mark.parametrize("part", [0, *slowly(*range(1, 8))])
def test_golden_vectors(device: HostLaunches, part: int) -> None:
    """All of them, each on one of the devices."""
    for i, problem in enumerate(GOLDEN[part::8]):
        (details, tokens), _ = device.call(golden, problem, device=i % 3)
        want, what = problem["expected"], f"{ {k: v for k, v in problem.items() if k != 'expected'} }"
        assert tokens.tolist() == want["tokens"], what
        for name, values in want.items():
            assert getattr(details, name).tolist() == values, f"{name} of {what}"


def odd(logits: list[Tensor], pad: int) -> list[Tensor]:
    """The same numbers in rows further apart, from an element on that is not aligned to 16 bytes."""
    wide = [torch.full((x.shape[0], x.shape[1] + pad), torch.nan, dtype=x.dtype) for x in logits]
    for to, x in zip(wide, logits, strict=True):
        to[:, pad // 2 : pad // 2 + x.shape[1]] = x
    return [x[:, pad // 2 : x.shape[1] - pad + pad // 2] for x in wide]


SHAPES = [(1, 1), (3, 31), (33, 1025), (3, 32001), (1, 128256), (1, 256000)]


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "vocab"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_and_details(device: HostLaunches, batch: int, vocab: int, dtype: torch.dtype) -> None:
    plain = models("lm", 3, batch, vocab, dtype, seed=vocab % 97)
    for i, (logits, options) in enumerate(
        [(plain, {"top_p": 0.9}), (odd(plain, 3), OPTIONS[-1]), (odd(plain, 21), {"temperature": 0.0})]
    ):
        call: dict[str, Any] = {"seed": torch.arange(batch) + 5, "position": 2, **options}
        tokens, count = device.call(fused_step, *logits, **call, backend="cuda", device=i)
        assert torch.equal(tokens, fused_step(*logits, **call, backend="cpu"))
        assert (count.launches, count.clusters) == (1, i != A100), "clusters where the device has them"
    call |= {"return_details": True, "top_logprobs": min(vocab, 3), "conservative_top_p": 0.9}
    got, count = device.replay(fused_step, *logits, **call, backend="cuda", device=B200)
    assert_same(got, fused_step(*logits, **call, backend="cpu"), f"{batch} x {vocab}")
    assert (count.launches, count.rows) == (3, 3 * batch)  # three nuclei a row, the rows, their first ids
    z, _ = device.call(combine, logits, EFT, backend="cuda", device=A100)
    assert torch.equal(z, combine(logits, EFT, backend="cpu"))


def repeated(logits: list[Tensor], positions: range) -> tuple[list[Tensor], int]:
    """A loop's calls; how many have been kept."""
    call_cache._calls.clear()
    return [fused_mix(logits, EFT, seed=3, position=i, top_p=0.9, backend="cuda") for i in positions], len(
        call_cache._calls
    )


def test_repeated_calls(device: HostLaunches) -> None:
    """The short way (eft_ext/ops/backends/call_cache.py)."""
    logits = models("lm", 3, 2, 3001, torch.bfloat16)
    (tokens, kept), count = device.call(repeated, logits, range(5))
    assert (kept, count.launches) == (1, 5)
    for i, got in enumerate(tokens):
        assert torch.equal(got, fused_mix(logits, EFT, seed=3, position=i, top_p=0.9, backend="cpu"))


@pytest.mark.parametrize("call", [{"seed": 3, "position": 4}, {"temperature": 0.0}, {"seed": -1, "position": 0}])
def test_a_capture_takes_what_a_repeated_call_takes(device: HostLaunches, call: dict[str, Any]) -> None:
    """Whole numbers, or none; kept before the capture, and not."""
    logits = models("lm", 3, 2, 2000, torch.bfloat16)
    want = fused_step(*logits, **call, backend="cpu")
    for ask in (device.replay, device.call, device.replay):
        assert torch.equal(ask(fused_step, *logits, **call, backend="cuda")[0], want)
        assert torch.equal(ask(fused_mix, logits, EFT, **call, backend="cuda")[0], want)


@pytest.mark.slow
def test_more_rows_than_a_launch_takes(device: HostLaunches) -> None:
    logits = models("lm", 2, 1030, 40)
    call: dict[str, Any] = {"seed": torch.arange(1030), "position": 1, "top_p": 0.9}
    got, count = device.call(fused_mix, logits, [1.5, -0.5], **call, backend="cuda", device=A100)
    assert torch.equal(got, fused_mix(logits, [1.5, -0.5], **call, backend="cpu"))
    assert (count.launches, count.rows) == (2, 1024)
    targets = some_targets(1030, 40)
    score, count = device.call(fused_score_mix, logits, [1.5, -0.5], targets, backend="cuda")
    assert_agrees(score, fused_score_mix(logits, [1.5, -0.5], targets, backend="cpu"))
    assert (count.launches, count.rows) == (4, 1024)


@pytest.mark.parametrize("name", KINDS)
def test_verification(device: HostLaunches, name: str) -> None:
    at = list(ROWS).index(name)
    for i, (batch, k, vocab) in enumerate(((3, 2, 1001), (1, 3, 4099), (33, 1, 130))[: 2 + (at % 4 == 0)]):
        logits, own = blocks(name, 3, batch, k, vocab, DTYPES[(at + i) % 3], at), OPTIONS[(at + 5 * i) % len(OPTIONS)]
        seeds = torch.arange(batch) + at
        call: dict[str, Any] = {"lengths": torch.arange(batch) % (k + 1), "seed": seeds, "position": 7, **own}
        if i == 1:
            call["conservative_top_p"] = 0.9
        given = (propose(logits[1][:, :k], seeds, 7, **own).clamp(min=0), logits[1][:, :k], logits, EFT)
        ask = device.replay if (at + i) % 2 else device.call
        got, count = ask(fused_verify, *given, **call, backend="cuda", device=i)
        for field, x, y in zip(got._fields, got, fused_verify(*given, **call, backend="cpu"), strict=True):
            assert torch.equal(x, y), f"{name} {i} {field}: {x.tolist()} is not {y.tolist()}"
        assert count.launches == (2 + k + 1 if i == 1 else 2)


@pytest.mark.parametrize("name", KINDS)
def test_scoring(device: HostLaunches, name: str) -> None:
    at = list(ROWS).index(name)
    for i, (batch, vocab) in enumerate(((3, 1025), (1, 4099), (33, 130))[: 2 + (at % 4 == 1)]):
        logits, targets = odd(models(name, 3, batch, vocab, DTYPES[(at + i) % 3]), 5), some_targets(batch, vocab, at)
        targets[0] = -100 if i == 0 else targets[0]
        ask = device.replay if (at + i) % 2 else device.call
        own: dict[str, Any] = {"num_top": 3, "num_changed": 2, "compared": i}
        got, count = ask(fused_score_mix, logits, EFT, targets, **own, backend="cuda", device=i)
        assert_agrees(got, fused_score_mix(logits, EFT, targets, **own, backend="cpu"))
        assert count.launches == 2
        own = {"scale": 1.5, "conservative_top_p": 0.9, "num_top": 1}
        got, count = ask(fused_score, *logits, targets, **own, backend="cuda", device=i)
        assert_agrees(got, fused_score(*logits, targets, **own, backend="cpu"))
        assert count.launches == 3


@pytest.mark.parametrize("name", ["near torch.bfloat16", "bitmask"])
def test_special_tokens(device: HostLaunches, name: str) -> None:
    """They take no launch more, but for scores, and no clusters; a captured call's tickets are its graph's."""
    (problem,) = (p for p in special_problems() if p.name == name)
    mixed = {"special_tokens": problem.special}
    taken = {key: problem.options[key] for key in ("bias", "token_bitmask") if key in problem.options}
    drawn = {**mixed, "seed": 11, "position": 5, **problem.options}
    call, targets = (problem.logits, problem.weights), torch.tensor([problem.special.own[0], 3, -100, 4])
    q = torch.stack([problem.logits[1]] * 2, dim=1)
    verified = (torch.full((4, 1), problem.special.own[0]), q[:, :1], [torch.stack([x, x], 1) for x in problem.logits])
    for ask in (device.call, device.replay):
        got, count = ask(fused_mix, *call, **drawn, backend="cuda")
        assert torch.equal(got, fused_mix(*call, **drawn, backend="reference"))
        assert (count.launches, count.clusters) == (1, 0)
        got, count = ask(combine, *call, **mixed, **taken, backend="cuda")
        assert torch.equal(got, combine(*call, **mixed, **taken, backend="reference"))
        assert count.launches == 1
        got, count = ask(fused_verify, *verified, problem.weights, **drawn, backend="cuda")
        for x, y in zip(got, fused_verify(*verified, problem.weights, **drawn, backend="reference"), strict=True):
            assert torch.equal(x, y)
        assert count.launches == 2
        got, count = ask(fused_score_mix, *call, targets, **mixed, backend="cuda")
        assert_agrees(got, fused_score_mix(*call, targets, **mixed, backend="reference"))
        assert count.launches == 3


SHAPES_OF_GRAPHS = [
    (3, 2000),
    pytest.param(60, 100, marks=pytest.mark.slow),
    pytest.param(1, 20000, marks=pytest.mark.slow),
]  # clusters on an H200, blocks of one tile, a row of 20 tiles


@pytest.mark.parametrize("chip", [H200, A100])
@pytest.mark.parametrize(("batch", "vocab"), SHAPES_OF_GRAPHS)
def test_a_graph_has_tickets_of_its_own(device: HostLaunches, batch: int, vocab: int, chip: int) -> None:
    """They are zero before the capture, nobody else writes them, and they are there again when the graph is gone."""
    logits = models("lm", 3, batch, vocab, torch.bfloat16)
    call: dict[str, Any] = {"seed": torch.arange(batch), "position": 3, "top_p": 0.9}
    want = fused_step(*logits, **call, backend="cpu")
    allocations = 0
    for _ in range(17):  # more than are made at once
        got, count = device.replay(fused_step, *logits, **call, backend="cuda", device=chip)
        assert torch.equal(got, want)
        allocations += count.allocations
    assert allocations <= 1, "sets of tickets go back"
    assert count.launches == 1
