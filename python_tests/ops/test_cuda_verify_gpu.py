"""The CUDA verification on a device: the CPU's tokens, for all options and vocabularies (make gpu-test).

Tests named `small` are the reduced set that make gpu-test also runs under compute-sanitizer.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from eft_ext import backends
from eft_ext.ops import VerifyResult, fused_mix, fused_verify
from python_tests.helpers.drafts import EFT, blocks, propose
from python_tests.helpers.on_device import DERANDOMIZED, DTYPES, WEIGHTS, moved
from python_tests.helpers.rows import ROWS, STEP_OPTIONS
from python_tests.helpers.verify_problems import VerifyProblem, long_verify_problems, verify_problems

pytestmark = pytest.mark.gpu
VOCABS = (31, 1025, 50257, 128256, 151936)


def check(what: str, *call: Any, **options: Any) -> VerifyResult:
    """The result on the device, which the CPU's must equal."""
    want = fused_verify(*call, backend="cpu", **options)
    drafts, draft_logits, logits, weights = call
    there = (drafts.cuda(), moved(draft_logits), [moved(x) for x in logits], [moved(w) for w in weights])
    got = fused_verify(*there, backend="cuda", **{name: moved(value) for name, value in options.items()})
    for name, x, y in zip(VerifyResult._fields, got, want, strict=True):
        assert torch.equal(x.cpu(), y), f"{what}: {name} {x.tolist()} is not {y.tolist()}"
    return got


def nearly_right(vocab: int, batch: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor, list[Tensor], list[float]]:
    logits = blocks("lm", 3, batch, k, vocab, torch.bfloat16, seed=seed)
    drafts = propose(logits[1][:, :k], torch.arange(batch), top_p=0.9)
    return drafts, logits[1][:, :k], logits, [0.4, 0.7, -0.1]


def test_the_backend_is_there() -> None:
    assert backends()["cuda"].available, backends()["cuda"].reason


@pytest.mark.parametrize("name", list(ROWS))
def test_every_kind_of_row_and_option(name: str) -> None:
    """The draft model has the mixture's options, or others in turn."""
    sets = list(STEP_OPTIONS.values())
    for i, (options, vocab) in enumerate(itertools.product(sets, VOCABS)):
        count, k = 1 + i % 4, 1 + i % 3
        logits = blocks(name, count, 2 if vocab < 60_000 else 1, k, vocab, DTYPES[i % 3], seed=i)
        own = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, **(options if i % 2 else sets[i * 5 % len(sets)])}
        seeds = torch.arange(logits[0].shape[0]) + i
        drafts = propose(logits[-1][:, :k], seeds, 7, **own).clamp(min=0)
        asked = {**options, **{f"draft_{key}": value for key, value in own.items()}, "seed": seeds, "position": 7}
        call = (drafts, logits[-1][:, :k], logits, WEIGHTS[count - 1])
        check(f"{name} {options} {own} V={vocab} K={count}", *call, **asked)


@pytest.mark.parametrize("batch", [1, 16, 64, 256])
def test_batches_as_they_are_served(batch: int) -> None:
    lengths = torch.arange(batch) % 5
    for options in ({}, {"top_p": 0.9}, {"temperature": 0.0}, {"top_k": 50}):
        found = check(f"{options}", *nearly_right(32000, batch, 4), lengths=lengths, seed=3, position=0, **options)
        assert (found.num_accepted <= lengths.cuda()).all()


@settings(max_examples=400, **DERANDOMIZED)
@given(verify_problems())
def test_made_up_calls(problem: VerifyProblem) -> None:
    check("made up", *_call(problem), **problem.options)


@settings(max_examples=40, **DERANDOMIZED)
@given(long_verify_problems())
def test_made_up_rows_of_large_vocabularies(problem: VerifyProblem) -> None:
    check("made up", *_call(problem), **problem.options)
    unlike = replace(problem, weights=[1.0, 5.0])
    check("made up, rejected", *_call(unlike), **unlike.options)


def _call(problem: VerifyProblem) -> tuple[Any, ...]:
    return problem.drafts, problem.draft_logits, problem.logits, problem.weights


@pytest.mark.parametrize("options", ["plain", "greedy", "top_p_90", "all"])
def test_small(options: str) -> None:
    for count, name, dtype in itertools.product((1, 3), ("lm", "flat", "nan"), (torch.bfloat16, torch.float32)):
        logits, seeds = blocks(name, count, 2, 2, 3000, dtype), torch.arange(2)
        drafts = propose(logits[-1][:, :2], seeds).clamp(min=0)
        call = (drafts, logits[-1][:, :2], logits, WEIGHTS[count - 1])
        check(f"{name} {options} {dtype}", *call, seed=seeds, position=1, **STEP_OPTIONS[options])
    certain = {"draft_temperature": 0.0, "seed": seeds, "position": 1}
    check("certain", drafts, None, logits, EFT, **certain)


def test_small_conservative() -> None:
    drafts, draft_logits, logits, _ = nearly_right(3000, 2, 2)
    for outside in ("keep", "drop"):
        options = {"conservative_top_p": 0.9, "conservative_outside": outside, "seed": 1, "position": 2}
        check(outside, drafts, draft_logits, logits, [1.5, 1.0, -1.5], **options)


def test_the_draft_models_logits_may_be_the_mixtures() -> None:
    """One piece of memory for both, as the engine has it."""
    drafts, draft_logits, logits, weights = nearly_right(32000, 8, 4)
    there = [x.cuda() for x in logits]
    found = fused_verify(drafts.cuda(), there[1][:, :4], there, weights, seed=1, position=0, top_p=0.9)
    want = fused_verify(drafts, draft_logits, logits, weights, seed=1, position=0, top_p=0.9)
    assert [x.tolist() for x in found] == [x.tolist() for x in want]


@pytest.mark.parametrize(("batch", "vocab"), [(1, 128256), (16, 32000)])
def test_a_replayed_graph_decides_afresh(batch: int, vocab: int) -> None:
    """Lengths, options, seeds and the position lie on the device: a replay reads them, and the logits, again."""
    k = 3
    drafts, _, logits, weights = nearly_right(vocab, batch, k)
    there, proposed = [x.cuda() for x in logits], drafts.cuda()
    seeds, position = torch.arange(batch), torch.zeros(batch, dtype=torch.int64)
    lengths, heat = torch.full((batch,), k), torch.ones(batch)
    buffers = {"seed": seeds, "position": position, "lengths": lengths, "temperature": heat}
    on_device = {name: x.cuda() for name, x in buffers.items()}

    def run() -> VerifyResult:
        return fused_verify(proposed, there[1][:, :k], there, weights, top_p=0.9, backend="cuda", **on_device)

    run()  # warm: modules load outside of captures
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    for n in range(4):
        fresh, _, new, _ = nearly_right(vocab, batch, k, seed=n)
        proposed.copy_(fresh)
        for buffer, x in zip(there, new, strict=True):
            buffer.copy_(x)
        buffers |= {"position": position + n, "lengths": lengths - n % 2, "temperature": heat * (1 + n / 8)}
        for name, x in buffers.items():
            on_device[name].copy_(x)
        graph.replay()
        want = fused_verify(fresh, new[1][:, :k], new, weights, top_p=0.9, backend="cpu", **buffers)
        assert [x.tolist() for x in out] == [x.tolist() for x in want]


def test_two_streams_and_steps_between() -> None:
    """A verification and a step of one stream share its workspace."""
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    sets = [nearly_right(32000, 8, 3, seed=n) for n in range(2)]
    there = [(d.cuda(), q.cuda(), [x.cuda() for x in p], w) for d, q, p, w in sets]
    torch.cuda.synchronize()
    found: list[list[Any]] = [[], []]
    for position in range(10):
        for n, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                call = there[n]
                found[n].append(fused_verify(*call, seed=1, position=position, top_p=0.9, backend="cuda"))
                found[n].append(fused_mix([x[:, 0] for x in call[2]], EFT, seed=1, position=position, backend="cuda"))
    torch.cuda.synchronize()
    for n, call in enumerate(sets):
        for position in (0, 9):
            want = fused_verify(*call, seed=1, position=position, top_p=0.9, backend="cpu")
            assert [x.tolist() for x in found[n][2 * position]] == [x.tolist() for x in want]
            step = fused_mix([x[:, 0] for x in call[2]], EFT, seed=1, position=position, backend="cpu")
            assert torch.equal(found[n][2 * position + 1].cpu(), step)


def test_compiles_into_one_graph() -> None:
    drafts, _, logits, _ = nearly_right(3000, 4, 2)
    there, proposed, seeds = [x.cuda() for x in logits], drafts.cuda(), torch.arange(4, device="cuda")

    def round_of(large: Tensor, tuned: Tensor, base: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        found = fused_verify(proposed, tuned[:, :2], [large, tuned, base], EFT, seed=seeds, position=position)
        return found.tokens + 0, found.num_accepted

    position = torch.zeros(4, dtype=torch.int64, device="cuda")
    got = torch.compile(round_of, fullgraph=True, backend="eager")(*there, position)
    assert [x.tolist() for x in got] == [x.tolist() for x in round_of(*there, position)]
