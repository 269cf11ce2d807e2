"""Tokens that the models do not share (numerics.md §15) in the CUDA kernels on the emulator, beside the reference."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from eft_ext.ops import combine, fused_mix, fused_score_mix, fused_step, fused_verify
from python_tests.helpers.host_cuda import HostCuda, Launch, library
from python_tests.helpers.slow_params import slowly_but
from python_tests.helpers.special_problems import SpecialProblem, problems
from python_tests.ops.test_cuda_host import assert_same
from python_tests.ops.test_score_fuzz import assert_like_the_reference

FEW = ("near torch.bfloat16", "strange", "broken rows", "weights of rows", "never alone", "bitmask")
PROBLEMS = {problem.name: problem for problem in problems()}
NAMES = slowly_but(FEW, PROBLEMS)
THREES = slowly_but(("near torch.bfloat16",), [name for name, p in PROBLEMS.items() if len(p.logits) == 3])
DRAW = {"seed": 11, "position": 5}


@pytest.fixture(scope="module")
def host() -> HostCuda:
    return library()


LAUNCHES = (
    Launch(seed, "streaming" if blocks else "chosen", blocks, bf16)
    for seed, (blocks, bf16) in enumerate(itertools.cycle(itertools.product((1, 2, 3, 0, 5), (True, False))))
)


def on_both(host: HostCuda, function: Any, *call: Any, **options: Any) -> tuple[Any, Any]:
    """The kernels' result, and the reference's."""
    want = function(*call, backend="reference", **options)
    host.launch = next(LAUNCHES)
    with host.installed():
        return function(*call, backend="cpu", **options), want


def mixed(problem: SpecialProblem) -> dict[str, Any]:
    """The options that belong to the mixture."""
    taken = {name: problem.options[name] for name in ("bias", "token_bitmask") if name in problem.options}
    return {**taken, "special_tokens": problem.special}


def aligned(logits: list[Tensor]) -> list[Tensor]:
    """Rows on 16-byte boundaries, as the kernels for bf16 models want them."""
    width = -(-logits[0].shape[1] // 8) * 8
    return [torch.nn.functional.pad(x, (0, width - x.shape[1]))[:, : x.shape[1]] for x in logits]


@pytest.mark.parametrize("name", NAMES)
def test_a_step(host: HostCuda, name: str) -> None:
    problem = PROBLEMS[name]
    options = {"special_tokens": problem.special, **DRAW, **problem.options}
    for logits in (problem.logits, aligned(problem.logits)):
        details = {"return_details": True, "top_logprobs": 6}
        got, want = on_both(host, fused_mix, logits, problem.weights, **options, **details)
        assert_same(got, want, f"{host.launch}")
        bare, _ = on_both(host, fused_mix, logits, problem.weights, **options)
        assert torch.equal(bare, want.tokens), f"{host.launch}"


@pytest.mark.parametrize("name", NAMES)
def test_the_mixture(host: HostCuda, name: str) -> None:
    problem = PROBLEMS[name]
    for logits in (problem.logits, aligned(problem.logits)):
        got, want = on_both(host, combine, logits, problem.weights, **mixed(problem))
        assert torch.equal(got.nan_to_num(nan=7e30), want.nan_to_num(nan=7e30)), f"{host.launch}"


@pytest.mark.parametrize("outside", ["keep", "drop"])
@pytest.mark.parametrize("name", THREES)
def test_conservative_re_weighting(host: HostCuda, name: str, outside: str) -> None:
    problem = PROBLEMS[name]
    conservative = {"scale": 1.5, "conservative_top_p": 0.8, "conservative_outside": outside}
    options = {"special_tokens": problem.special, **conservative, **DRAW, **problem.options}
    got, want = on_both(host, fused_step, *problem.logits, return_details=True, top_logprobs=6, **options)
    assert_same(got, want, f"{host.launch}")


@pytest.mark.parametrize("conservative", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_verification(host: HostCuda, name: str, conservative: bool) -> None:
    problem = PROBLEMS[name]
    if conservative and len(problem.logits) != 3:
        pytest.skip("for three models")
    steps = [torch.stack([x, x.roll(1, 0), x.roll(2, 0)], dim=1) for x in aligned(problem.logits)]
    q = steps[min(1, len(steps) - 1)][:, :2]
    drafts = torch.stack([fused_mix([q[:, i]], [1.0], seed=11, position=5 + i) for i in range(2)], dim=1).clamp(min=0)
    drafts[0, 0], drafts[1, 0] = (*problem.special.own, 3)[0], (*problem.special.never, 3)[0]
    weights = [1.5, 1.0, -1.5] if conservative else problem.weights
    more = {"conservative_top_p": 0.8} if conservative else {}
    options = {"special_tokens": problem.special, "draft_top_k": 0, **DRAW, **more, **problem.options}
    got, want = on_both(host, fused_verify, drafts, q, steps, weights, **options)
    for x, y in zip(got, want, strict=True):
        assert torch.equal(x, y), f"{host.launch}: {x.tolist()} is not {y.tolist()}"


@pytest.mark.parametrize("conservative", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_scores(host: HostCuda, name: str, conservative: bool) -> None:
    problem = PROBLEMS[name]
    if conservative and len(problem.logits) != 3:
        pytest.skip("for three models")
    ids = (*problem.special.own, *problem.special.never, 20, 1030)
    weights = [1.5, 1.0, -1.5] if conservative else problem.weights
    more = {"conservative_top_p": 0.8} if conservative else {}
    options = {"special_tokens": problem.special, "num_top": 4, "num_changed": 3, **more}
    for logits, first in ((problem.logits, 0), (aligned(problem.logits), 3)):
        targets = torch.tensor([ids[(first + i) % len(ids)] for i in range(4)])
        targets[3] = -100 if first else targets[3]
        got, want = on_both(host, fused_score_mix, logits, weights, targets, **options)
        assert_like_the_reference(got, want)
