"""Calls of fused_verify: the operator, compilation, the backend that is chosen, wrong input."""

from types import SimpleNamespace

import pytest
import torch

from eft_ext.ops import fused_verify, reference
from eft_ext.ops.backends import native, reference_backend, registry
from eft_ext.ops.backends.flat_params import flatten, flatten_draft
from python_tests.helpers.drafts import EFT, arguments, blocks, propose, same


def test_the_operator():
    mix, draw, drafted = arguments()
    torch.library.opcheck(torch.ops.eft_ext.verify.default, (*flatten_draft(drafted), *flatten(mix, draw), "auto"))


@pytest.mark.slow
def test_compiles_into_one_graph():
    logits, seeds = blocks("lm", 3, 4, 2, 300), torch.arange(4)

    def round_of(large, tuned, base, drafts, position):
        found = fused_verify(drafts, tuned[:, :2], [large, tuned, base], EFT, seed=seeds, position=position, top_p=0.9)
        return found.tokens + 0, found.num_accepted

    compiled = torch.compile(round_of, fullgraph=True, backend="eager")
    drafts = propose(logits[1][:, :2], seeds)
    for at in (0, 3):
        position = torch.full((4,), at)
        assert same(compiled(*logits, drafts, position), round_of(*logits, drafts, position))


def test_cuda_tensors_take_the_kernels_where_they_are_built(monkeypatch):
    def chosen(cuda, triton, vocab):
        monkeypatch.setattr(registry, "_cuda_usable", lambda: cuda)
        monkeypatch.setattr(registry, "_triton_usable", lambda: triton)
        mix = SimpleNamespace(device=torch.device("cuda"), vocab_size=vocab)
        return registry.choose_backend("auto", mix)

    large, in_triton = native.CUDA_MAX_VOCAB + 1, object()
    monkeypatch.setattr(registry, "_triton_backend", lambda: in_triton)
    registry._warn_slow_cuda.cache_clear()
    assert chosen(True, True, native.CUDA_MAX_VOCAB) is native
    assert chosen(False, True, 100) is chosen(True, True, large) is in_triton
    with pytest.warns(UserWarning, match="slow reference backend"):
        assert chosen(True, False, large) is reference_backend
    assert chosen(False, False, 100) is reference_backend


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drafts": torch.zeros(2, 3)}, "drafts: expected an int64"),
        ({"drafts": torch.zeros(2, dtype=torch.int64)}, r"drafts: expected shape \[batch, k\]"),
        ({"drafts": torch.zeros(2, 0, dtype=torch.int64)}, r"logits\[0\]: expected shape \[batch, 1, vocab\]"),
        ({"drafts": torch.zeros(3, 2, dtype=torch.int64)}, "drafts: expected 2 rows"),
        ({"logits": [torch.zeros(2, 2, 9)]}, r"logits\[0\]: expected shape \[batch, 3, vocab\]"),
        ({"logits": torch.zeros(2, 3, 9)}, "logits: expected a sequence"),
        ({"logits": []}, "logits: expected 1 to 4"),
        ({"draft_logits": torch.zeros(2, 3, 9)}, r"draft_logits: expected shape \[batch, 2, vocab\]"),
        ({"draft_logits": torch.zeros(1, 2, 9)}, "draft_logits: expected 2 rows"),
        ({"draft_logits": None}, "draft_logits: expected a tensor"),
        ({"draft_logits": torch.zeros(2, 2, 9, dtype=torch.int8)}, "draft_logits: expected bfloat16"),
        ({"weights": [1.0, 2.0]}, "weights: expected 1"),
        ({"lengths": 3}, "lengths: expected 0 to 2"),
        ({"lengths": torch.tensor([1])}, r"lengths: expected a scalar or a tensor \[2\]"),
        ({"draft_top_p": 1.5}, "draft_top_p: expected a finite number"),
        ({"draft_temperature": -1.0}, "draft_temperature: expected a finite number"),
        ({"conservative_top_p": 0.9}, "conservative_top_p: expected large, tuned and base"),
        ({"token_bitmask": torch.zeros(2, 2, 1, dtype=torch.int32)}, "token_bitmask: expected 3 positions"),
        ({"vocab_size": 10}, "vocab_size: expected 1 to 9"),
        ({"backend": "gpu"}, "backend: expected .auto. or one of"),
        ({"backend": "cuda"}, "backend: .cuda. (is not usable here|expects tensors on cuda)"),
        ({"seed": 1}, "position: expected"),
    ],
)
def test_wrong_input(change, message):
    call = {
        "drafts": torch.zeros(2, 2, dtype=torch.int64),
        "draft_logits": torch.zeros(2, 2, 9),
        "logits": [torch.zeros(2, 3, 9)],
        "weights": [1.0],
    }
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        fused_verify(**{**call, **change})


def test_reference_is_public():
    logits = blocks("lm", 1, 2, 1, 50)
    found = reference.verify(
        torch.zeros(2, 1, dtype=torch.int64),
        logits[0][:, :1],
        logits,
        [1.0],
        filters=reference.Filters(),
        draft_filters=reference.Filters(),
        seed=1,
    )
    assert found.tokens.shape == (2, 2)
