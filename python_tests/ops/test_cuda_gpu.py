"""The CUDA step on a device: the tokens of the CPU step, for all options and vocabularies (make gpu-test).

Tests named `small` are the reduced set that make gpu-test also runs under compute-sanitizer.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from eft_ext import backends
from eft_ext.ops import StepDetails, combine, fused_mix, fused_step
from python_tests.helpers.on_device import DERANDOMIZED, DTYPES, VOCABS, WEIGHTS, on_device
from python_tests.helpers.rows import ROWS, STEP_OPTIONS, models
from python_tests.helpers.step_problems import Problem, large_problems, problems

pytestmark = pytest.mark.gpu


def assert_same(got: StepDetails, want: StepDetails, what: str) -> None:
    """Integers bit for bit; floats to 1e-5, or alike infinite or NaN."""
    for name, x, y in zip(StepDetails._fields, got, want, strict=True):
        x = x.cpu()
        if not y.is_floating_point():
            assert torch.equal(x, y), f"{what}: {name} {x.tolist()} is not {y.tolist()}"
            continue
        close = (x == y) | (x.isnan() & y.isnan()) | ((x - y).abs() <= 1e-4 + 1e-5 * y.abs())
        assert close.all(), f"{what}: {name} {x[~close].tolist()} is not {y[~close].tolist()}"


def check(problem: Problem, what: str) -> None:
    want, there = problem.run("cpu"), on_device(problem)
    assert_same(there.run("cuda"), want, what)
    bare = there.run("cuda", return_details=False, top_logprobs=0)
    assert torch.equal(bare.cpu(), want.tokens), f"{what}, without details"


def test_the_backend_is_there() -> None:
    assert backends()["cuda"].available, backends()["cuda"].reason


@pytest.mark.parametrize("name", list(ROWS))
def test_every_kind_of_row_and_option(name: str) -> None:
    for i, (options, vocab) in enumerate(itertools.product(STEP_OPTIONS, VOCABS)):
        weights = WEIGHTS[i % 4]
        batch = 3 if vocab < 100_000 else 1
        logits = models(name, len(weights), batch, vocab, DTYPES[i % 3])
        problem = Problem(logits, list(weights), {"seed": 5, "position": i, **STEP_OPTIONS[options]})
        check(problem, f"{name} {options} V={vocab} K={len(weights)} {DTYPES[i % 3]}")


@pytest.mark.parametrize("batch", [1, 7, 64, 256, 300])
@pytest.mark.parametrize("vocab", [32000, 128256, 256000])
def test_batches_as_they_are_served(batch: int, vocab: int) -> None:
    """Made on the device: the rows' first and last eight are compared with the CPU's."""
    torch.manual_seed(batch + vocab)
    logits = [torch.randn(batch, vocab, device="cuda", dtype=torch.bfloat16) * 3 for _ in range(3)]
    rows = sorted({*range(min(batch, 8)), *range(max(0, batch - 8), batch)})
    seeds = torch.arange(batch)
    for options in ({"top_p": 0.9}, {"temperature": 0.0}, {"top_k": 50, "top_p": 0.9}, {}):
        got = fused_step(*logits, seed=seeds.cuda(), position=9, backend="cuda", **options)
        own = [x[rows].cpu() for x in logits]
        want = fused_step(*own, seed=seeds[rows], position=9, backend="cpu", **options)
        assert torch.equal(got.cpu()[rows], want), f"B={batch} V={vocab} {options}"


@settings(max_examples=400, **DERANDOMIZED)
@given(problems())
def test_made_up_calls(problem: Problem) -> None:
    check(problem, "made up")


@settings(max_examples=40, **DERANDOMIZED)
@given(large_problems())
def test_made_up_rows_of_large_vocabularies(problem: Problem) -> None:
    check(problem, "made up")


@settings(max_examples=60, **DERANDOMIZED)
@given(problems())
def test_the_mixture(problem: Problem) -> None:
    extras = {k: problem.options[k] for k in ("bias", "token_bitmask", "vocab_size") if k in problem.options}
    want = combine(problem.logits, problem.weights, backend="cpu", **extras)
    there = on_device(problem)
    extras = {k: there.options[k] for k in extras}
    got = combine(there.logits, there.weights, backend="cuda", **extras).cpu()
    assert torch.equal(torch.nan_to_num(got, nan=12345.0), torch.nan_to_num(want, nan=12345.0))


@pytest.mark.parametrize("options", ["greedy", "plain", "top_p_90", "top_k_50", "all"])
@pytest.mark.parametrize(("count", "vocab"), [(1, 3000), (3, 3000), (3, 20000)])
def test_small(options: str, count: int, vocab: int) -> None:
    """Both kernels, with details and without."""
    for dtype, name in itertools.product((torch.bfloat16, torch.float32), ("lm", "flat", "nan")):
        logits = models(name, count, 2, vocab, dtype)
        problem = Problem(logits, list(WEIGHTS[count - 1]), {"seed": 1, "position": 2, **STEP_OPTIONS[options]})
        check(problem, f"{name} {options} {dtype}")


def test_small_conservative() -> None:
    logits = models("lm", 3, 2, 3000, torch.bfloat16)
    for outside in ("keep", "drop"):
        conservative = {"scale": 1.5, "conservative_top_p": 0.9, "conservative_outside": outside}
        check(Problem(logits, [], {"seed": 1, "position": 2, "top_p": 0.95}, conservative), outside)


def loop(logits: list[Tensor], seeds: Tensor, steps: int) -> list[list[int]]:
    """The tokens that the CPU step draws at positions 0, 1, ..."""
    own = [x.cpu() for x in logits]
    return [
        fused_step(*own, seed=seeds.cpu(), position=torch.full((len(seeds),), n), top_p=0.9, backend="cpu").tolist()
        for n in range(steps)
    ]


@pytest.mark.parametrize(("batch", "vocab"), [(1, 128256), (4, 32000), (64, 32000)])
def test_a_replayed_graph_draws_afresh(batch: int, vocab: int) -> None:
    """The position advances on the device, inside the graph; the logits' buffers may be refilled."""
    logits = [x.cuda() for x in models("lm", 3, batch, vocab, torch.bfloat16)]
    seeds, position = torch.arange(batch, device="cuda"), torch.zeros(batch, dtype=torch.int64, device="cuda")
    out = torch.empty(batch, dtype=torch.int64, device="cuda")
    fused_step(*logits, seed=seeds, position=position, top_p=0.9, out=out)  # warm: modules load outside of captures
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fused_step(*logits, seed=seeds, position=position, top_p=0.9, out=out)
        position += 1
    position.zero_()
    for want in loop(logits, seeds, 12):
        graph.replay()
        assert out.tolist() == want
    for buffer, x in zip(logits, models("lm", 3, batch, vocab, torch.bfloat16, seed=1), strict=True):
        buffer.copy_(x)
    position.zero_()
    fresh = loop(logits, seeds, 3)
    for want in fresh:
        graph.replay()
        assert out.tolist() == want


@pytest.mark.parametrize("call", [{"seed": 3, "position": 4}, {"temperature": 0.0}])
def test_a_capture_takes_what_a_repeated_call_takes(call: dict[str, Any]) -> None:
    """Whole numbers, or none: a replay draws the same again."""
    own = models("lm", 3, 2, 3000, torch.bfloat16)
    logits = [x.cuda() for x in own]
    fused_step(*logits, **call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = fused_step(*logits, **call)
    graph.replay()
    assert torch.equal(tokens.cpu(), fused_step(*own, **call))


def test_the_first_call_of_a_process_may_be_captured() -> None:
    """Nothing is loaded yet: the runtime comes up, and the kernels, while a stream is captured."""
    code = """if True:
        import torch
        from eft_ext.ops import fused_step
        own = [torch.randn(2, 3000, generator=torch.Generator().manual_seed(k)) for k in range(3)]
        logits, seeds = [x.cuda() for x in own], torch.arange(2)
        there, position = seeds.cuda(), torch.zeros(2, dtype=torch.int64, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            tokens = fused_step(*logits, seed=there, position=position, top_p=0.9)
        graph.replay()
        assert torch.equal(tokens.cpu(), fused_step(*own, seed=seeds, position=0, top_p=0.9))
    """
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_two_streams_at_once_do_not_share_scratch() -> None:
    """Many steps in flight on two streams, and on the default one, each with its own rows."""
    batch, vocab = 16, 128256
    streams = [torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()]
    sets = [[x.cuda() for x in models("lm", 3, batch, vocab, torch.bfloat16, seed=i)] for i in range(3)]
    seeds = torch.arange(batch, device="cuda")
    torch.cuda.synchronize()
    outs: list[list[Tensor]] = [[], [], []]
    for position in range(20):
        for stream, logits, out in zip(streams, sets, outs, strict=True):
            with torch.cuda.stream(stream):
                out.append(fused_step(*logits, seed=seeds, position=position, top_p=0.9, backend="cuda"))
    torch.cuda.synchronize()
    for logits, out in zip(sets, outs, strict=True):
        own = [x[:2].cpu() for x in logits]
        for position in (0, 19):
            want = fused_step(*own, seed=seeds[:2].cpu(), position=position, top_p=0.9, backend="cpu")
            assert torch.equal(out[position][:2].cpu(), want)


def test_graphs_own_their_scratch() -> None:
    """Two graphs, replayed on two streams at once, and an eager call between them."""
    sets = [[x.cuda() for x in models("lm", 3, 8, 128256, torch.bfloat16, seed=i)] for i in range(2)]
    seeds, position = torch.arange(8, device="cuda"), torch.zeros(8, dtype=torch.int64, device="cuda")
    outs = [torch.empty(8, dtype=torch.int64, device="cuda") for _ in sets]
    fused_step(*sets[0], seed=seeds, position=position, top_p=0.9)
    graphs = []
    for logits, out in zip(sets, outs, strict=True):
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1]):
            fused_step(*logits, seed=seeds, position=position, top_p=0.9, out=out)
    want = [loop(logits, seeds, 1)[0] for logits in sets]
    streams = [torch.cuda.Stream() for _ in sets]
    torch.cuda.synchronize()
    for _ in range(30):
        for graph, stream in zip(graphs, streams, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
        eager = fused_step(*sets[0], seed=seeds, position=position, top_p=0.9)
    torch.cuda.synchronize()
    assert [out.tolist() for out in outs] == want
    assert eager.tolist() == want[0]


def test_a_workspace_that_is_too_small_is_refused() -> None:
    logits = [x.cuda() for x in models("lm", 3, 2, 3000, torch.bfloat16)]
    call = {"seed": 1, "position": 0, "top_p": 0.9, "backend": "cuda"}
    want = fused_step(*logits, **call)
    roomy = torch.zeros(1 << 20, dtype=torch.uint8, device="cuda")
    for _ in range(2):  # left fit for the next
        assert torch.equal(fused_step(*logits, workspace=roomy, **call), want)
    with pytest.raises(ValueError, match="workspace"):
        fused_step(*logits, workspace=roomy[:16], **call)


def test_invalid_rows_leave_their_neighbours_alone() -> None:
    logits = models("lm", 3, 6, 128256, torch.bfloat16)
    want = fused_mix(logits, [1.0, 1.0, -1.0], seed=1, position=0, top_p=0.9).tolist()
    spoilt = [x.clone() for x in logits]
    spoilt[0][1, 77] = torch.nan
    spoilt[1][2, 128255] = torch.inf
    spoilt[2][3] = -torch.inf
    spoilt[0][4] = torch.finfo(torch.bfloat16).min
    found = fused_mix([x.cuda() for x in spoilt], [1.0, 1.0, -1.0], seed=1, position=0, top_p=0.9, return_details=True)
    assert found.status.tolist() == [0, 1, 1, 1, 1, 0]
    assert found.tokens.tolist() == [want[0], -1, -1, -1, -1, want[5]]
    bad = torch.tensor([0.9, float("nan"), 0.9, 2.0, 0.9, -1.0], device="cuda")
    tokens = fused_mix([x.cuda() for x in logits], [1.0, 1.0, -1.0], seed=1, position=0, top_p=bad)
    assert tokens.tolist() == [want[0], -1, want[2], -1, want[4], -1]
