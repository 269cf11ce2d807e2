"""The Triton step and verification on a device: the CPU's tokens, capture and replay, two streams at once."""

import pytest
import torch

from eft_ext import backends
from eft_ext.ops import VerifyResult, fused_mix, fused_step, fused_verify
from eft_ext.ops.special_tokens import SpecialTokens
from python_tests.helpers.rows import ROWS, STEP_OPTIONS, models
from python_tests.ops.test_triton_verify import made, made_up

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not backends()["triton"].available, reason=backends()["triton"].reason),
]
WEIGHTS = [1.0, 1.0, -1.0]


def assert_same(got, want, context):
    for name, x, y in zip(got._fields, got, want, strict=True):
        x = x.cpu()
        if name in ("tokens", "num_kept", "top_ids", "status"):
            assert torch.equal(x, y), f"{context}: {name} {x.tolist()} is not {y.tolist()}"
            continue
        close = (x == y) | (x.isnan() & y.isnan()) | ((x - y).abs() <= 1e-5 + 1e-5 * y.abs())
        assert close.all(), f"{context}: {name} {x[~close].tolist()} is not {y[~close].tolist()}"


def check(logits, context, **options):
    common = {"seed": 11, "position": 5, "return_details": True, **options}
    want = fused_mix(logits, WEIGHTS, **common)
    got = fused_mix([x.cuda() for x in logits], WEIGHTS, backend="triton", **common)
    assert_same(got, want, context)


@pytest.mark.parametrize("name", STEP_OPTIONS)  # kernels differ by options: no two workers compile the same
def test_every_kind_of_row(name):
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for rows in ROWS:
            check(models(rows, 3, 3, 2500, dtype), f"{rows} {dtype} {name}", **STEP_OPTIONS[name])


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


@pytest.mark.parametrize("vocab", [2500, 151936])
def test_special_tokens(vocab):
    special = SpecialTokens(own=(7, vocab - 5), never=(0, vocab - 1))
    for options in (STEP_OPTIONS["plain"], STEP_OPTIONS["all"], STEP_OPTIONS["greedy"]):
        logits = [x.clone() for x in models("lm", 3, 4, vocab, torch.bfloat16)]
        for s in special.own:
            logits[1][:, s] = logits[1].amax(dim=1)
        check(logits, f"special V={vocab} {options}", special_tokens=special, **options)


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


def on_device(call):
    """Every tensor of a call; what shares memory goes on sharing it."""
    moved = {}

    def there(x):
        if not isinstance(x, torch.Tensor):
            return x
        base = x if x._base is None else x._base
        place = moved.setdefault(id(base), base.cuda())
        return place.as_strided(x.shape, x.stride(), x.storage_offset())

    return {name: [there(y) for y in x] if name == "logits" else there(x) for name, x in call.items()}


def verified_alike(call, context):
    want = fused_verify(**call, backend="cpu")
    got = fused_verify(**on_device(call), backend="triton")
    for name, x, y in zip(want._fields, got, want, strict=True):
        assert torch.equal(x.cpu(), y), f"{context}: {name} {x.tolist()} is not {y.tolist()}"


@pytest.mark.parametrize("n", range(len(STEP_OPTIONS)), ids=list(STEP_OPTIONS))
def test_verification_of_every_kind_of_row(n):
    sets = list(STEP_OPTIONS.values())
    dtype, vocab = (torch.bfloat16, torch.float32, torch.float16)[n % 3], (1000, 1025, 31)[n % 3]
    for rows in ROWS:
        call = made(rows, 4, 3, vocab, dtype, own=sets[n * 5 % len(sets)], seed=n, **sets[n])
        verified_alike(call, f"{rows} {sets[n]}")


@pytest.mark.parametrize("part", range(8))  # each call compiles for seconds, which workers share
def test_made_up_verifications(part):
    for seed in range(part, 32, 8):
        verified_alike(made_up(seed), f"made_up({seed})")


@pytest.mark.parametrize("vocab", [32000, 128256, 256000])
def test_verification_of_a_real_vocabulary(vocab):
    for options in ({}, {"top_p": 0.9, "temperature": 0.7}, {"conservative_top_p": 0.9}):
        drawn = {name: x for name, x in options.items() if name != "conservative_top_p"}
        call = made("lm", 3, 4, vocab, torch.bfloat16, weights=[0.5, 1.0, -0.5], **drawn)
        verified_alike({**call, **options}, f"V={vocab} {options}")


def test_a_captured_verification_draws_afresh():
    call = made("lm", 4, 3, 32000, torch.bfloat16, weights=[0.6, 0.6, -0.4], temperature=1.2)
    device = on_device(call)
    device["position"] = torch.zeros(4, dtype=torch.int64, device="cuda")
    out = VerifyResult(*(x.cuda() for x in fused_verify(**call)))
    device["out"] = out

    fused_verify(**device, backend="triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fused_verify(**device, backend="triton")
        device["position"].add_(1)
    device["position"].zero_()
    for at in range(20):
        graph.replay()
        want = fused_verify(**{**call, "position": at}, backend="cpu")
        assert all(torch.equal(x.cpu(), y) for x, y in zip(out, want, strict=True)), at


def test_a_verification_allocates_nothing_with_out():
    device = on_device(made("lm", 4, 3, 32000, torch.bfloat16, weights=[0.6, 0.6, -0.4], top_p=0.9))
    device["out"] = fused_verify(**device, backend="triton")
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    fused_verify(**device, backend="triton")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
