"""The operators of torch.library: opcheck, torch.compile without graph breaks, export."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from eft_ext.ops import combine, fused_mix, fused_step, reference
from eft_ext.ops.backends.flat_params import flatten
from eft_ext.ops.check_params import given_weights, logits_names, mix_params, sampling_params
from python_tests.helpers.rows import models as rows

NAMES = ("large", "tuned", "base")


def arguments(per_row=False):
    logits = rows("lm", 3, 4, 300)
    mix = mix_params(
        logits_names(logits),
        logits,
        given_weights([1.0, torch.ones(4), -1.0], logits),
        None,
        None,
        torch.zeros(300),
        None,
    )
    top_p = torch.full((4,), 0.9) if per_row else 0.9
    return mix, sampling_params(mix, 0.7, 20, top_p, 0.01, 3, 2, None)


@pytest.mark.parametrize("per_row", [False, True])
def test_opcheck(per_row):
    mix, draw = arguments(per_row)
    torch.library.opcheck(torch.ops.eft_ext.step.default, (*flatten(mix, draw), "auto"))
    torch.library.opcheck(torch.ops.eft_ext.step_details.default, (*flatten(mix, draw), "auto", 3))
    torch.library.opcheck(torch.ops.eft_ext.combine.default, (*flatten(mix), "auto"))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_into_one_graph(backend):
    def loop_body(large, tuned, base, seeds, position):
        token = fused_step(large, tuned, base, seed=seeds, position=position, top_p=0.9, temperature=0.8)
        return token + 0, combine([large, tuned], [1.0, 0.5]).sum()

    compiled = torch.compile(loop_body, fullgraph=True, backend=backend)
    logits, seeds = rows("lm", 3, 4, 500), torch.arange(4)
    for position in range(4):
        at = torch.full((4,), position)
        want, got = loop_body(*logits, seeds, at), compiled(*logits, seeds, at)
        assert torch.equal(got[0], want[0])
        torch.testing.assert_close(got[1], want[1])


def test_compiles_with_details_numbers_and_no_seed():
    compiled = torch.compile(
        lambda logits, position: fused_mix(
            logits, [1.0, 1.0, -1.0], seed=3, position=position, return_details=True, top_logprobs=2
        ),
        fullgraph=True,
        backend="eager",
    )
    logits = rows("lm", 3, 2, 400)
    for position in (1, 2, 3):
        got = compiled(logits, position)
        assert torch.equal(got.tokens, fused_mix(logits, [1.0, 1.0, -1.0], seed=3, position=position))
        assert got.top_ids.shape == (2, 2)
    unseeded = torch.compile(lambda x: fused_mix([x], [1.0]), fullgraph=True, backend="eager")
    assert len({unseeded(logits[0])[0].item() for _ in range(20)}) > 1


@pytest.mark.slow
def test_inductor_runs_it():
    compiled = torch.compile(lambda a, b, c, p: fused_step(a * 1.0, b, c, seed=1, position=p, top_k=5), fullgraph=True)
    logits = rows("lm", 3, 2, 256)
    at = torch.tensor([3, 4])
    assert torch.equal(compiled(*logits, at), fused_step(*logits, seed=1, position=at, top_k=5))


def test_a_generator_is_heard_or_refused():
    logits = rows("flat", 3, 2, 400)

    def draw():
        return fused_step(*logits, generator=torch.Generator().manual_seed(7))

    with FlopCounterMode(display=False):
        assert torch.equal(draw(), draw())
    compiled = torch.compile(lambda g: fused_step(*logits, generator=g), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="generator"):
        compiled(torch.Generator().manual_seed(7))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_recorded_says_so():
    logits = rows("lm", 3, 2, 400)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace cannot record"):
        torch.jit.trace(lambda *x: fused_step(*x, temperature=0), logits, check_trace=False)


def test_meta_tensors_and_numpy_numbers():
    x = torch.empty(3, 50, device="meta")
    assert fused_step(x, x, x).device.type == "meta"
    logits = rows("lm", 3, 2, 400)
    want = fused_step(*logits, seed=1, position=0, top_k=5, temperature=0.5, vocab_size=300)
    given = {"seed": np.int64(1), "position": np.int32(0), "top_k": np.int64(5), "temperature": np.float32(0.5)}
    assert torch.equal(fused_step(*logits, vocab_size=np.int64(300), **given), want)


def test_fake_tensors_have_the_right_shapes():
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(7, 100, dtype=torch.bfloat16)
        assert fused_step(x, x, x, temperature=0).shape == (7,)
        details = fused_step(x, x, x, seed=1, position=0, return_details=True, top_logprobs=5)
        assert details.top_ids.shape == (7, 5)
        assert combine([x, x], [1.0, 2.0], vocab_size=90).shape == (7, 90)


def test_combine_is_the_reference_bit_for_bit():
    for name in ("lm", "masked", "nan", "inf", "huge", "subnormal"):
        logits = rows(name, 3, 3, 1500, torch.bfloat16)
        bias = torch.randn(1500, generator=torch.Generator().manual_seed(0))
        got, want = (
            combine(logits, [1.0, 1.5, -1.5], bias=bias),
            reference.combine(logits, [1.0, 1.5, -1.5], bias=bias),
        )
        same = (got.view(torch.int32) == want.view(torch.int32)) | (got.isnan() & want.isnan())
        assert same.all(), name
    q = {"conservative_top_p": 0.9}
    logits = rows("lm", 3, 3, 1500)
    plain = combine(logits, [1.0, 1.0, -1.0], backend="reference", **q)
    assert torch.equal(combine(logits, [1.0, 1.0, -1.0], **q), plain)
