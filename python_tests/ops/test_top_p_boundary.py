"""A cumulative mass that is p in decimals has reached p, though p is rounded to fp32 and masses to integers.

The decimals are summed as integers here; nothing of the package says what is expected.
"""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from eft_ext import reference
from eft_ext.ops import combine, fused_mix, fused_verify
from python_tests.helpers import triton_interpreter as child
from python_tests.helpers.host_cuda import Launch, library
from python_tests.helpers.step_problems import Problem

UNIFORM = [(k, j) for k in range(2, 129) for j in range(1, 100) if j * k % 100 == 0]  # k tokens, p = j/100
HALF_TENTH = torch.tensor([[0.3, 0.1, 0.1, 0.5]]).log()


def kept(logits: Tensor, top_p: float | Tensor, backend: str = "cpu", **more) -> Tensor:
    found = fused_mix([logits], [1.0], top_p=top_p, seed=1, position=0, backend=backend, return_details=True, **more)
    return found.num_kept.long()


def in_oracle(logits: Tensor, top_p: float | Tensor) -> Tensor:
    return (reference.distribution([logits], [1.0], top_p=top_p) > 0).sum(dim=1)


def padded(rows: list[list[int]]) -> Tensor:
    """The logarithms of each row's shares of its sum, -inf behind the shorter rows."""
    width = max(map(len, rows))
    return torch.tensor([[x / sum(row) for x in row] + [0.0] * (width - len(row)) for row in rows]).log()


def uniform(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, p as a tensor, and how many tokens hold it."""
    logits = padded([[1] * k for k, _ in pairs])
    return logits, torch.tensor([j / 100 for _, j in pairs]), torch.tensor([k * j // 100 for k, j in pairs])


def decimal_rows(count: int, seed: int) -> tuple[Tensor, list[float], Tensor]:
    """Rows of decimals in random order, p a sum of their largest, and how many tokens hold it."""
    rng = random.Random(seed)
    rows, ps, expected = [], [], []
    for _ in range(count):
        unit = rng.choice((100, 1000))
        size = rng.randint(2, 40)
        cuts = [0, *sorted(rng.sample(range(1, unit), size - 1)), unit]
        row = [b - a for a, b in itertools.pairwise(cuts)]
        reached = list(itertools.accumulate(sorted(row, reverse=True)))
        some = rng.randrange(size - 1)
        rows.append(row)
        ps.append(reached[some] / unit)
        expected.append(some + 1)
    return padded(rows), ps, torch.tensor(expected)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_equal_tokens(backend: str) -> None:
    assert len(UNIFORM) > 500
    logits, p, expected = uniform(UNIFORM)
    assert kept(logits, p, backend).tolist() == expected.tolist()
    assert in_oracle(logits, p).tolist() == expected.tolist()
    for row in range(0, len(UNIFORM), 1 if backend == "cpu" else 10):
        k, j = UNIFORM[row]
        assert kept(torch.full((1, k), 2.5), j / 100, backend).item() == k * j // 100, UNIFORM[row]


def test_decimal_rows() -> None:
    logits, ps, expected = decimal_rows(10_000, seed=1)
    assert torch.equal(kept(logits, torch.tensor(ps)), expected)
    assert torch.equal(in_oracle(logits, torch.tensor(ps)), expected)
    assert torch.equal(kept(logits[:1000], torch.tensor(ps[:1000]), "reference"), expected[:1000])
    for row in range(1000):
        assert kept(logits[row : row + 1], ps[row]).item() == expected[row], row


def test_a_token_that_p_needs_stays() -> None:
    """A millionth of the mass beyond the boundary calls for one token more."""
    logits, ps, expected = decimal_rows(1000, seed=2)
    assert torch.equal(kept(logits, torch.tensor(ps) + 2e-6), expected + 1)
    assert torch.equal(kept(logits, torch.tensor(ps) - 2e-6), expected)


@pytest.mark.parametrize("top_p", [0.5, 0.7, 0.8, 0.85, 0.95, 0.999])
def test_transformers_warper(top_p: float) -> None:
    rows = torch.tensor([[0.3, 0.1, 0.1, 0.5], [0.15, 0.3, 0.3, 0.25], [0.2, 0.7, 0.05, 0.05]]).log()
    theirs = TopPLogitsWarper(top_p)(torch.zeros(3, 1), rows).isfinite().sum(dim=1)
    assert kept(rows, top_p).tolist() == theirs.tolist()
    assert kept(rows, torch.full((3,), top_p), "reference").tolist() == theirs.tolist()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_ends_of_the_scale(backend: str) -> None:
    # At 1 the filter is off; just below it a token of 2^-30 is no longer needed.
    logits = torch.tensor([[0.0, -1.0, -2.0, -20.8]] * 5)
    p = torch.tensor([1.0, 1.0 - 2.0**-24, 2.0**-40, 1e-45, 0.0])
    assert kept(logits, p, backend).tolist() == [4, 3, 1, 1, 1]
    assert in_oracle(logits, p).tolist() == [4, 3, 1, 1, 1]
    for row in range(5):
        assert kept(logits[:1], p[row].item(), backend).item() == [4, 3, 1, 1, 1][row]


def test_after_top_k() -> None:
    """The shares that count are those of the survivors: four of five of them hold 0.8."""
    logits = torch.zeros(3, 10)
    logits[:, 5:] = -1.0
    assert kept(logits, torch.tensor([0.8, 0.6, 0.2]), top_k=5).tolist() == [4, 3, 1]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_conservative_nucleus_shares_the_rule(backend: str) -> None:
    flat = torch.zeros(1, 4)
    z = combine([flat, HALF_TENTH, flat], [1.0, 1.0, -1.0], conservative_top_p=0.8, conservative_outside="drop",
                backend=backend)  # fmt: skip
    assert z.isfinite().tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_verification_shares_the_rule(backend: str) -> None:
    rows = 200 if backend == "cpu" else 20
    logits = HALF_TENTH.expand(rows, 2, 4)
    drafts = torch.ones(rows, 1, dtype=torch.int64)
    common = {"seed": torch.arange(rows), "position": 0, "backend": backend}
    # Token 1 is outside of p's nucleus: never accepted.
    none = fused_verify(drafts, None, [logits], [1.0], top_p=0.8, draft_temperature=0.0, **common)
    assert none.num_accepted.sum() == 0
    # Outside of q's nucleus, where q would not have proposed it: p exceeds q, always accepted.
    every = fused_verify(drafts, logits[:, :1], [logits], [1.0], draft_top_p=0.8, **common)
    assert every.num_accepted.sum() == rows


def test_triton(interpreter) -> None:
    logits, p, expected = uniform(UNIFORM[::25])
    given = Problem([logits], [1.0], {"seed": 1, "position": 0, "top_p": p})
    assert interpreter.call(child.made_up, given).num_kept.tolist() == expected.tolist()
    logits, ps, expected = decimal_rows(20, seed=3)
    given = Problem([logits], [1.0], {"seed": 1, "position": 0, "top_p": torch.tensor(ps)})
    assert interpreter.call(child.made_up, given).num_kept.tolist() == expected.tolist()
    given = Problem([HALF_TENTH], [1.0], {"seed": 1, "position": 0, "top_p": 0.8})
    assert interpreter.call(child.made_up, given).num_kept.item() == 2
    flat = torch.zeros(1, 4)
    options = {"conservative_top_p": 0.8, "conservative_outside": "drop"}
    z = interpreter.call(child.mixed, [flat, HALF_TENTH, flat], [1.0, 1.0, -1.0], options)
    assert z.isfinite().tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("kernel", ["streaming", "resident"])
def test_cuda_kernels(kernel: str) -> None:
    host = library()
    with host.installed():
        host.launch = Launch(kernel=kernel, blocks=2)
        logits, p, expected = uniform(UNIFORM[::25])
        assert kept(logits, p).tolist() == expected.tolist()
        logits, ps, expected = decimal_rows(20, seed=4)
        assert kept(logits, torch.tensor(ps)).tolist() == expected.tolist()
