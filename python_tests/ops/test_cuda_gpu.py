"""The CUDA step on a device: the greedy case of this version (make gpu-test)."""

import pytest
import torch

from eft_ext.ops import backends, fused_mix, fused_step
from python_tests.ops.rows import ROWS, models

pytestmark = pytest.mark.gpu


def test_the_backend_is_there():
    assert backends()["cuda"].available, backends()["cuda"].reason


@pytest.mark.parametrize("rows", ROWS)
def test_greedy_equals_the_cpu(rows):
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for vocab in (1, 31, 1025, 128256):
            logits = models(rows, 3, 3, vocab, dtype)
            want = fused_mix(logits, [1.0, 1.0, -1.0], temperature=0)
            got = fused_mix([x.cuda() for x in logits], [1.0, 1.0, -1.0], temperature=0, backend="cuda")
            assert torch.equal(got.cpu(), want), f"{rows} {dtype} V={vocab}"


def test_greedy_is_captured_and_replayed():
    logits = [x.cuda() for x in models("lm", 3, 4, 32000, torch.bfloat16)]
    out = torch.empty(4, dtype=torch.int64, device="cuda")
    fused_step(*logits, temperature=0, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fused_step(*logits, temperature=0, out=out)
    fresh = models("lm", 3, 4, 32000, torch.bfloat16, seed=1)
    for buffer, x in zip(logits, fresh, strict=True):
        buffer.copy_(x)
    graph.replay()
    assert torch.equal(out.cpu(), fused_step(*fresh, temperature=0))


def test_sampling_draws_the_same():
    logits = models("lm", 3, 2, 2000)
    options = {"seed": torch.tensor([1, 2]), "position": 3, "top_p": 0.9}
    want = fused_step(*logits, **options)
    got = fused_step(*(x.cuda() for x in logits), **{**options, "seed": options["seed"].cuda()})
    assert torch.equal(got.cpu(), want)
