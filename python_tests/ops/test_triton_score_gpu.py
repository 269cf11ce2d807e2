"""Scoring in Triton on a device: float64's statistics, the CPU's integers, capture and replay."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from eft_ext import Score, backends, fused_score, fused_score_mix
from python_tests.helpers.rows import ROWS, models
from python_tests.ops.test_score import WEIGHTS, assert_agrees, assert_changes, some_targets

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not backends()["triton"].available, reason=backends()["triton"].reason),
]
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LISTS = {"num_top": 4, "num_changed": 3}


def home(score: Score) -> Score:
    return Score(*(field.cpu() for field in score))


def check(logits: list[Tensor], weights: list[float], targets: Tensor) -> None:
    options = {"compared": len(logits) - 1, **LISTS}
    there = [x.cuda() for x in logits]
    got = home(fused_score_mix(there, weights, targets.cuda(), backend="triton", **options))
    assert_agrees(got, fused_score_mix(logits, weights, targets, backend="reference", **options))
    assert_changes(got, logits, weights, len(logits) - 1)


@pytest.mark.parametrize("name", list(ROWS))
def test_every_kind_of_row(name: str) -> None:
    for i, (vocab, (count, weights)) in enumerate(itertools.product((31, 1025, 32000), WEIGHTS.items())):
        check(models(name, count, 3, vocab, DTYPES[i % 3]), weights, some_targets(3, vocab, i))


@pytest.mark.parametrize("vocab", [1, 31, 1025, 32016, 128256, 151936, 256000, 600_000])
def test_every_vocabulary(vocab: int) -> None:
    for batch in (1, 3):
        check(models("lm", 3, batch, vocab, torch.bfloat16), WEIGHTS[3], some_targets(batch, vocab))


@pytest.mark.parametrize("gap", [1.0, 30.0, 60.0, 100.0, 1e5])
def test_certain_tokens_keep_their_digits(gap: float) -> None:
    logits = torch.randn(4, 2500, generator=torch.Generator().manual_seed(1))
    hot = torch.tensor([0, 255, 1024, 2499])
    logits[range(4), hot] = logits.amax(1) + gap
    for targets in (hot, (hot + 1) % 2500):
        got = home(fused_score_mix([logits.cuda()], [1.0], targets.cuda(), backend="triton"))
        want = fused_score_mix([logits], [1.0], targets, backend="cpu")
        for name in ("logprobs", "log1m_max"):
            torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=2e-6, atol=2e-45)


def test_conservative_and_rows_without_statistics() -> None:
    logits, targets = models("lm", 3, 6, 32000, torch.bfloat16), some_targets(6, 32000)
    logits[0][1, 700], targets[2], targets[3] = math.nan, -100, 32000
    for defining, outside in itertools.product(("large", "tuned", "base"), ("keep", "drop")):
        form = {"conservative_set": defining, "conservative_outside": outside, "scale": 1.5, **LISTS}
        form["conservative_top_p"] = torch.tensor([0.9, 0.9, 0.9, 0.9, 1.0, 0.3])
        got = home(fused_score(*(x.cuda() for x in logits), targets.cuda(), backend="triton", **moved(form)))
        assert_agrees(got, fused_score(*logits, targets, backend="reference", **form))


def moved(options: dict) -> dict:
    return {name: x.cuda() if isinstance(x, Tensor) else x for name, x in options.items()}


def test_many_rows_of_any_strides_give_the_same_bits_again() -> None:
    whole = [torch.randn(3, 1100, 2000, device="cuda", dtype=torch.bfloat16) * 3 for _ in range(3)]
    ids = torch.randint(0, 2000, (3, 1100), device="cuda")
    ids[1, 7:90] = -100
    for logits, targets in (([x[:, :-1] for x in whole], ids[:, 1:]), ([x[..., 1:1900] for x in whole], ids % 1899)):
        got = fused_score(*logits, targets, backend="triton", **LISTS)
        for name, field in fused_score(*logits, targets, backend="triton", **LISTS)._asdict().items():
            assert torch.equal(field, getattr(got, name)), name
        part = [x[1, :20].cpu() for x in logits]
        want = fused_score(*part, targets[1, :20].cpu(), backend="cpu", **LISTS)
        assert_agrees(home(Score(*(field[1, :20] for field in got))), want)


def test_a_graph_scores_what_lies_in_its_buffers() -> None:
    logits = [x.cuda() for x in models("lm", 3, 4, 32000, torch.bfloat16)]
    targets = some_targets(4, 32000).cuda()
    fused_score(*logits, targets, backend="triton", **LISTS)  # warm: modules load outside of captures
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = fused_score(*logits, targets, backend="triton", **LISTS)
    for seed in (1, 2):
        fresh = models("lm", 3, 4, 32000, torch.bfloat16, seed)
        for buffer, x in zip(logits, fresh, strict=True):
            buffer.copy_(x)
        graph.replay()
        assert_agrees(home(got), fused_score(*fresh, targets.cpu(), backend="cpu", **LISTS))


def test_two_streams_at_once() -> None:
    rows = [models("lm", 3, 8, 32000, torch.bfloat16, seed=s) for s in range(2)]
    device, targets = [[x.cuda() for x in logits] for logits in rows], some_targets(8, 32000)
    there, streams = targets.cuda(), [torch.cuda.Stream() for _ in rows]
    torch.cuda.synchronize()
    found: list[list[Score]] = [[], []]
    for _ in range(20):
        for stream, logits, scores in zip(streams, device, found, strict=True):
            with torch.cuda.stream(stream):
                scores.append(fused_score(*logits, there, backend="triton"))
    torch.cuda.synchronize()
    for logits, scores in zip(rows, found, strict=True):
        for score in scores:
            assert_agrees(home(score), fused_score(*logits, targets, backend="cpu"))


def test_compiles_into_one_graph() -> None:
    logits, targets = models("lm", 3, 4, 1500, torch.bfloat16), some_targets(4, 1500)
    compiled = torch.compile(lambda a, b, c, t: fused_score(a, b, c, t, backend="triton").logprobs, fullgraph=True)
    want = fused_score(*logits, targets, backend="cpu").logprobs
    torch.testing.assert_close(compiled(*(x.cuda() for x in logits), targets.cuda()).cpu(), want)
