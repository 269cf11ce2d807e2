"""fused_verify in Triton's interpreter: masks, strides, cuts of the work, and the operator."""

import pytest
import torch

from eft_ext.ops import VerifyResult
from python_tests.helpers import triton_interpreter as child
from python_tests.ops.test_triton_verify import made, same


@pytest.mark.slow
@pytest.mark.parametrize("outside", ["keep", "drop"])
def test_conservative_masks_and_bias(interpreter, outside):
    batch, k, vocab = 3, 2 if outside == "keep" else 1, 1100
    noise = torch.Generator().manual_seed(1)
    call = made("lm", batch, k, vocab, weights=[0.3, 1.0, -0.3])
    call["bias"] = torch.randn(batch, vocab, generator=noise)
    call["token_bitmask"] = torch.randint(-(2**31), 2**31, (batch, k + 1, 35), generator=noise, dtype=torch.int64).int()
    nucleus = {"conservative_top_p": torch.tensor([0.9, 1.0, 0.5]), "conservative_outside": outside}
    same(interpreter, {**call, **nucleus})
    call |= {"bias": call["bias"][0], "token_bitmask": call["token_bitmask"][:, 0]}
    same(interpreter, {**call, "top_p": 0.8})


@pytest.mark.slow
def test_strides_padding_and_memory_of_its_own_change_nothing(interpreter):
    call = made("lm", 2, 2, 1000, torch.bfloat16, weights=[0.5, 0.5, 0.1])
    want = same(interpreter, call)
    wide = [torch.full((2, 5, 1009), torch.nan, dtype=x.dtype) for x in call["logits"]]
    for room, x in zip(wide, call["logits"], strict=True):
        room[:, 1:4, 3:1003] = x
    cut = [room[:, 1:4, 3:] for room in wide]
    for draft_logits in (cut[1][:, :2], call["draft_logits"].float()):
        moved = {**call, "logits": cut, "draft_logits": draft_logits, "vocab_size": 1000}
        assert all(torch.equal(x, y) for x, y in zip(same(interpreter, moved), want, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["flat", "bf16_ties"])
def test_no_cut_of_the_work_changes_a_token(interpreter, rows):
    call = made(rows, 1, 1, 2500, torch.bfloat16, weights=[0.6, 0.6, -0.4], top_k=2000, top_p=0.97)
    for cut in ((1, 4, 1, 4, 4), (3, 16, 4, 4, 4)):
        same(interpreter, call, cut)


def test_results_go_where_they_are_asked_for(interpreter):
    call = made("lm", 2, 1, 300)
    out = VerifyResult(torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), torch.ones(2).int())
    same(interpreter, {**call, "out": out})


@pytest.mark.slow
def test_the_operator(interpreter):
    assert interpreter.call(child.checked_verification) == "passed"
