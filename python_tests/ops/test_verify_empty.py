"""fused_verify without a draft (k = 0): the ordinary step's token, held to plain softmax and argmax too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from eft_ext.methods import Amplify
from eft_ext.ops import VerifyResult, fused_mix, fused_step, fused_verify
from python_tests.helpers import triton_interpreter as child
from python_tests.helpers.drafts import EFT, blocks, same
from python_tests.helpers.host_cuda import Launch, library
from python_tests.helpers.rows import STEP_OPTIONS

BACKENDS = ("cpu", "reference")
SEEDS = torch.tensor([3, -4, 5, 2**40])
WHERE = {"seed": SEEDS, "position": torch.tensor([0, 1, 7, 2**33])}


def without_drafts(logits: list[Tensor], weights: Any = EFT, **options: Any) -> VerifyResult:
    drafts = torch.empty(len(logits[0]), 0, dtype=torch.int64)
    return fused_verify(drafts, logits[min(1, len(logits) - 1)][:, :0], logits, weights, **options)


def assert_is_a_step(found: VerifyResult, tokens: Tensor) -> None:
    assert found.tokens.tolist() == [[token] for token in tokens.tolist()]
    assert found.num_accepted.tolist() == [0] * len(tokens)
    assert found.status.tolist() == [int(token < 0) for token in tokens.tolist()]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", ["lm", "bf16_ties", "masked", "nan"])
def test_the_ordinary_step(rows: str, backend: str) -> None:
    logits = blocks(rows, 3, 4, 0, 1100, torch.bfloat16)
    views = [x[:, 0] for x in logits]
    for options in STEP_OPTIONS.values():
        found = without_drafts(logits, backend=backend, **WHERE, **options)
        assert_is_a_step(found, fused_mix(views, EFT, backend=backend, **WHERE, **options))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_other_argument(backend: str) -> None:
    logits = blocks("lm", 3, 4, 0, 500)
    views = [x[:, 0] for x in logits]
    token_bitmask = torch.full((4, 1, 16), 0x5A5A5A5A, dtype=torch.int32)
    common = {
        **WHERE,
        "backend": backend,
        "bias": torch.linspace(-2, 2, 500),
        "top_p": torch.tensor([1.0, 0.9, 0.5, 0]),
    }
    step = fused_mix(views, EFT, token_bitmask=token_bitmask[:, 0], **common)
    assert_is_a_step(without_drafts(logits, token_bitmask=token_bitmask, draft_top_p=0.3, **common), step)
    assert_is_a_step(
        without_drafts(logits, token_bitmask=token_bitmask[:, 0], lengths=torch.zeros(4).long(), **common), step
    )
    for outside in ("keep", "drop"):
        nucleus = {"conservative_top_p": torch.tensor([0.9, 0.5, 1.0, 0.0]), "conservative_outside": outside}
        step = fused_step(*views, scale=1.5, **nucleus, **common)
        assert_is_a_step(without_drafts(logits, [1.5, 1.0, -1.5], **nucleus, **common), step)
    for method in (Amplify(1.5), Amplify(lambda step: 1 + step / 10)):
        at = {"seed": SEEDS, "position": 3, "backend": backend}
        assert_is_a_step(without_drafts(logits, method, **at), fused_mix(views, method, **at))


@pytest.mark.parametrize("backend", BACKENDS)
def test_plain_torch(backend: str) -> None:
    x = torch.randn(50, 1, 300, generator=torch.Generator().manual_seed(0))
    greedy = without_drafts([x], [2.0], temperature=0.0, backend=backend)
    assert_is_a_step(greedy, x[:, 0].argmax(dim=1))
    count = 20_000 if backend == "cpu" else 300
    row = torch.tensor([2.0, 0.0, 1.0, -1.0, 1.5])
    drawn = without_drafts([row.expand(count, 1, 5)], [1.0], seed=torch.arange(count), position=0, backend=backend)
    expected = row.softmax(dim=0)
    shares = drawn.tokens.flatten().bincount(minlength=5) / count
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / count).sqrt()).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_rows_are_marked(backend: str) -> None:
    x = torch.randn(4, 1, 40, generator=torch.Generator().manual_seed(0))
    x[0, 0, 3] = torch.nan
    options = {"draft_temperature": torch.tensor([1.0, -1.0, 1.0, 1.0]), "lengths": torch.tensor([0, 0, 1, 0])}
    found = without_drafts([x], [1.0], **WHERE, **options, backend=backend)
    assert found.status.tolist() == [1, 1, 1, 0]
    assert (found.tokens[:, 0] < 0).tolist() == [True, True, True, False]
    assert found.num_accepted.tolist() == [0] * 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_and_draft_logits(backend: str) -> None:
    """Drafts that are drawn, of which there are none, need no logits; a narrower draft model's width counts."""
    x, drafts = torch.zeros(4, 1, 40), torch.empty(4, 0, dtype=torch.int64)
    common = {**WHERE, "backend": backend}
    out = VerifyResult(torch.empty(4, 1, dtype=torch.int64), torch.empty(4, dtype=torch.int64), torch.empty(4).int())
    found = fused_verify(drafts, None, [x], [1.0], out=out, **common)
    assert found is out
    assert_is_a_step(found, fused_mix([x[:, 0]], [1.0], **common))
    for narrow in (torch.zeros(4, 0, 7), torch.zeros(4, 0, 7).bfloat16()):
        found = fused_verify(drafts, narrow, [x], [1.0], **common)
        assert_is_a_step(found, fused_mix([x[:, 0]], [1.0], vocab_size=7, **common))
    with pytest.raises(ValueError, match="lengths: expected 0 to 0, got 1"):
        fused_verify(drafts, None, [x], [1.0], lengths=1, **common)
    with pytest.raises(ValueError, match=r"draft_logits: expected shape \[batch, 0, vocab\]"):
        fused_verify(drafts, x, [x], [1.0], **common)
    with pytest.raises(ValueError, match=r"out.tokens: expected torch.int64 \[4, 1\]"):
        fused_verify(drafts, None, [x], [1.0], out=out._replace(tokens=drafts), **common)


def test_in_one_graph() -> None:
    logits = blocks("lm", 3, 4, 0, 300)

    def verified(*logits: Tensor) -> VerifyResult:
        return without_drafts(list(logits), temperature=0.9, **WHERE)

    compiled = torch.compile(verified, fullgraph=True, backend="eager")
    assert same(compiled(*logits), verified(*logits))


def test_triton(interpreter: child.Interpreter) -> None:
    logits, drafts = blocks("lm", 3, 4, 0, 1100), torch.empty(4, 0, dtype=torch.int64)
    for options in (
        {"temperature": torch.tensor([0.0, 1.0, 0.7, -1.0]), "top_p": 0.9},
        {"temperature": 0.0},
        {"conservative_top_p": 0.8, "top_k": 50},
    ):
        call = {
            "drafts": drafts,
            "draft_logits": logits[1][:, :0],
            "logits": logits,
            "weights": EFT,
            **WHERE,
            **options,
        }
        found = interpreter.call(child.verified, call)
        assert same(found, fused_verify(**call, backend="cpu"))
        if "conservative_top_p" not in options:
            assert_is_a_step(found, fused_mix([x[:, 0] for x in logits], EFT, **WHERE, **options))


@pytest.mark.parametrize("seed", range(3))  # the workspace as the library lays it out, and in guarded pieces
def test_cuda_kernels(seed: int) -> None:
    host, logits = library(), blocks("lm", 3, 4, 0, 2500, torch.bfloat16)
    views = [x[:, 0] for x in logits]
    wanted = [
        ({"top_p": 0.9}, fused_mix(views, EFT, **WHERE, top_p=0.9)),
        ({"temperature": 0.0}, fused_mix(views, EFT, temperature=0.0)),
        ({"conservative_top_p": 0.8}, fused_step(*views, conservative_top_p=0.8, **WHERE)),
    ]
    with host.installed():
        host.launch = Launch(seed, "streaming" if seed else "chosen", 1 + seed)
        for options, tokens in wanted:
            assert_is_a_step(without_drafts(logits, **{**WHERE, **options}), tokens)
