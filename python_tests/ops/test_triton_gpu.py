"""The Triton step on a device: the CPU's tokens, capture and replay, two streams at once."""

import pytest
import torch

from eft_ext.ops import backends, fused_mix, fused_step
from python_tests.ops.rows import ROWS, STEP_OPTIONS, models

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not backends()["triton"].available, reason=backends()["triton"].reason),
]
WEIGHTS = [1.0, 1.0, -1.0]


def assert_same(got, want, context):
    for name, x, y in zip(got._fields, got, want, strict=True):
        x = x.cpu()
        if name in ("tokens", "kept", "top_ids", "status"):
            assert torch.equal(x, y), f"{context}: {name} {x.tolist()} is not {y.tolist()}"
            continue
        close = (x == y) | (x.isnan() & y.isnan()) | ((x - y).abs() <= 1e-5 + 1e-5 * y.abs())
        assert close.all(), f"{context}: {name} {x[~close].tolist()} is not {y[~close].tolist()}"


def check(logits, context, **options):
    common = {"seed": 11, "position": 5, "return_details": True, **options}
    want = fused_mix(logits, WEIGHTS, **common)
    got = fused_mix([x.cuda() for x in logits], WEIGHTS, backend="triton", **common)
    assert_same(got, want, context)


@pytest.mark.parametrize("rows", ROWS)
def test_every_kind_of_row(rows):
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for name, options in STEP_OPTIONS.items():
            check(models(rows, 3, 3, 2500, dtype), f"{rows} {dtype} {name}", **options)


@pytest.mark.parametrize("vocab", [1, 31, 1025, 32000, 32016, 128256, 151936, 256000])
def test_every_vocabulary(vocab):
    for batch, name in ((1, "top_p_90"), (3, "all"), (2, "plain"), (2, "greedy")):
        check(models("lm", 3, batch, vocab, torch.bfloat16), f"V={vocab} {name}", **STEP_OPTIONS[name])
    check(models("flat", 3, 1, vocab, torch.bfloat16), f"flat V={vocab}", top_p=0.9)


def test_conservative():
    for rows in ("lm", "flat", "bf16_ties", "nan"):
        logits = models(rows, 3, 3, 32000, torch.bfloat16)
        options = {"scale": 1.5, "conservative_top_p": 0.9, "top_p": 0.95, "seed": 1, "position": 2}
        want = fused_step(*logits, return_details=True, **options)
        got = fused_step(*(x.cuda() for x in logits), return_details=True, backend="triton", **options)
        assert_same(got, want, rows)


def test_capture_and_replay_with_fresh_draws():
    logits = models("lm", 3, 4, 32000, torch.bfloat16)
    device = [x.cuda() for x in logits]
    seed = torch.arange(4)
    on_device, position = seed.cuda(), torch.zeros(4, dtype=torch.int64, device="cuda")
    out = torch.empty(4, dtype=torch.int64, device="cuda")
    options = {"top_p": 0.9, "temperature": 0.8}

    def step():
        fused_step(*device, seed=on_device, position=position, out=out, backend="triton", **options)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
        position.add_(1)
    position.zero_()
    for at in range(20):
        graph.replay()
        want = fused_step(*logits, seed=seed, position=torch.full((4,), at), **options)
        assert torch.equal(out.cpu(), want), at


def test_two_streams_at_once():
    rows = [models("lm", 3, 8, 32000, torch.bfloat16, seed=s) for s in range(2)]
    device = [[x.cuda() for x in logits] for logits in rows]
    streams = [torch.cuda.Stream() for _ in rows]
    outs = [torch.empty(50, 8, dtype=torch.int64, device="cuda") for _ in rows]
    torch.cuda.synchronize()
    for position in range(50):
        for stream, logits, out in zip(streams, device, outs, strict=True):
            with torch.cuda.stream(stream):
                fused_step(*logits, seed=3, position=position, top_p=0.9, out=out[position], backend="triton")
    torch.cuda.synchronize()
    for logits, out in zip(rows, outs, strict=True):
        for position in range(0, 50, 7):
            assert torch.equal(out[position].cpu(), fused_step(*logits, seed=3, position=position, top_p=0.9))


def test_nothing_is_allocated_with_out():
    device = [x.cuda() for x in models("lm", 3, 4, 32000, torch.bfloat16)]
    out = torch.empty(4, dtype=torch.int64, device="cuda")
    fused_step(*device, seed=1, position=0, top_p=0.9, out=out, backend="triton")
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    fused_step(*device, seed=1, position=1, top_p=0.9, out=out, backend="triton")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_compiles_into_one_graph():
    logits = models("lm", 3, 4, 1500, torch.bfloat16)
    device, at = [x.cuda() for x in logits], torch.arange(4)
    compiled = torch.compile(
        lambda a, b, c, p: fused_step(a, b, c, seed=1, position=p, top_p=0.9, backend="triton"), fullgraph=True
    )
    assert torch.equal(compiled(*device, at.cuda()).cpu(), fused_step(*logits, seed=1, position=at, top_p=0.9))
