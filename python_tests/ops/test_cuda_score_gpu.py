"""Scoring on a device beside the CPU's (make gpu-test).

Tests named `small` are the reduced set that make gpu-test also runs under compute-sanitizer.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eft_ext import Score, fused_score, fused_score_mix
from python_tests.helpers.on_device import DERANDOMIZED, DTYPES, VOCABS, moved, on_device
from python_tests.helpers.rows import ROWS, models
from python_tests.helpers.step_problems import Problem, problems
from python_tests.ops.test_score import WEIGHTS, assert_agrees, assert_changes, some_targets
from python_tests.ops.test_score_fuzz import assert_like_the_reference, run

pytestmark = pytest.mark.gpu
LISTS = {"num_top": 4, "num_changed": 3}


def home(score: Score) -> Score:
    return Score(*(field.cpu() for field in score))


def check(logits: list[Tensor], weights: list[float], targets: Tensor) -> None:
    options = {"compared": len(logits) - 1, **LISTS}
    got = home(fused_score_mix([moved(x) for x in logits], weights, targets.cuda(), backend="cuda", **options))
    assert_agrees(got, fused_score_mix(logits, weights, targets, backend="reference", **options))
    assert_changes(got, logits, weights, len(logits) - 1)


@pytest.mark.parametrize("name", list(ROWS))
def test_every_kind_of_row(name: str) -> None:
    for i, (vocab, (count, weights)) in enumerate(itertools.product(VOCABS, WEIGHTS.items())):
        batch = 3 if vocab < 100_000 else 1
        check(models(name, count, batch, vocab, DTYPES[i % 3]), weights, some_targets(batch, vocab, i))


@settings(max_examples=300, **DERANDOMIZED)
@given(problems(), st.integers(0, 2**16), st.integers(0, 3))
def test_made_up_calls(problem: Problem, seed: int, listed: int) -> None:
    batch, size = problem.logits[0].shape[0], problem.options["vocab_size"]
    targets = torch.randint(-2, size + 1, (batch,), generator=torch.Generator().manual_seed(seed))
    options = {"num_top": listed, "num_changed": listed, "ignore_index": -2}
    got = home(run(on_device(problem), targets.cuda(), "cuda", **options))
    assert_like_the_reference(got, run(problem, targets, "reference", **options))


def test_sequences_are_one_call_and_give_the_same_bits_again() -> None:
    """More rows than a launch takes, none of them copied, each launch on the tickets that the last one left."""
    whole = [torch.randn(3, 1100, 2000, device="cuda", dtype=torch.bfloat16) * 3 for _ in range(3)]
    ids = torch.randint(0, 2000, (3, 1100), device="cuda")
    ids[1, 7:90] = -100
    logits, targets = [x[:, :-1] for x in whole], ids[:, 1:]
    got = fused_score(*logits, targets, **LISTS)
    for name, field in fused_score(*logits, targets, **LISTS)._asdict().items():
        assert torch.equal(field, getattr(got, name)), name
    part = [x[1, :20].cpu() for x in logits]
    assert_agrees(
        home(Score(*(field[1, :20] for field in got))),
        fused_score(*part, targets[1, :20].cpu(), **LISTS, backend="cpu"),
    )


def test_a_graph_scores_what_lies_in_its_buffers() -> None:
    logits = [x.cuda() for x in models("lm", 3, 4, 32000, torch.bfloat16)]
    targets = some_targets(4, 32000).cuda()
    fused_score(*logits, targets, **LISTS)  # warm: modules load outside of captures
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = fused_score(*logits, targets, **LISTS)
    for seed in (1, 2):
        fresh = models("lm", 3, 4, 32000, torch.bfloat16, seed)
        for buffer, x in zip(logits, fresh, strict=True):
            buffer.copy_(x)
        graph.replay()
        assert_agrees(home(got), fused_score(*fresh, targets.cpu(), **LISTS, backend="cpu"))


@pytest.mark.parametrize("name", ["lm", "one_hot", "nan", "masked"])
def test_small(name: str) -> None:
    for (count, weights), dtype in itertools.product(WEIGHTS.items(), (torch.bfloat16, torch.float32)):
        targets = some_targets(3, 3000)
        targets[1] = -100
        check(models(name, count, 3, 3000, dtype), weights, targets)


def test_small_conservative_and_certain() -> None:
    logits, targets = models("lm", 3, 2, 3000, torch.bfloat16), some_targets(2, 3000)
    options = {"scale": 1.5, "conservative_top_p": 0.9, **LISTS}
    got = home(fused_score(*[x.cuda() for x in logits], targets.cuda(), **options, backend="cuda"))
    assert_agrees(got, fused_score(*logits, targets, **options, backend="reference"))
    logits[0][0, 1023] += 1000.0
    got = home(fused_score_mix([logits[0].cuda()], [1.0], torch.tensor([1023, 1]).cuda(), backend="cuda"))
    assert -math.inf < float(got.log1m_max[0, 0]) < -500
