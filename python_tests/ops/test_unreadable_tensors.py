"""Tensors that cannot be read or written at an address: each call looks, also one that was made before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from eft_ext.methods import UpScale
from eft_ext.ops import combine, fused_mix, fused_score_mix, fused_step
from eft_ext.ops.backends import call_cache
from eft_ext.ops.prepared_step import PreparedStep
from python_tests.ops.test_marked_tensors import VOCAB, negated, step, step_arguments, verify, verify_arguments, zero


def test_a_call_that_is_kept_looks_at_each_tensor() -> None:
    call_cache._calls.clear()
    logits = [torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(k)) for k in range(3)]

    def drawn(x: Tensor) -> Tensor:
        return fused_step(x, *logits[1:], temperature=0.0)

    for x in (logits[0], negated(logits[0]), zero(logits[0]), logits[0]):
        assert torch.equal(drawn(x), (x + logits[1] - logits[2]).argmax(dim=1))
    assert len(call_cache._calls) == 1
    for out in (negated(torch.zeros(2, dtype=torch.int64)), zero(torch.zeros(2, dtype=torch.int64))):
        with pytest.raises(ValueError, match="out: expected a tensor that can be written at its address"):
            fused_step(*logits, temperature=0.0, out=out)


def test_a_prepared_step_looks_at_each_tensor() -> None:
    logits = [torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    out, seeds, positions = torch.zeros(2, dtype=torch.int64), torch.tensor([3, 4]), torch.tensor([0, 0])
    for options in ({"temperature": 0.0}, {"temperature": negated(torch.zeros(2))}):
        step = PreparedStep(UpScale(), seed=seeds, position=positions, out=out, **options)
        for x in (logits[0], logits[0], negated(logits[0]), logits[0]):
            step([x, *logits[1:]])
            assert torch.equal(out, (x + logits[1] - logits[2]).argmax(dim=1))
    # A position that a mark negates is read again at each call.
    marked = negated(positions)
    step = PreparedStep(UpScale(), seed=seeds, position=marked, out=out)
    for at in range(3):
        marked.fill_(at)
        step(logits)
        assert torch.equal(out, fused_mix(logits, [1.0, 1.0, -1.0], seed=seeds, position=at))


def test_results_are_refused() -> None:
    given, wanted = step_arguments(), "expected a tensor that can be written at its address"
    details = step(given, "cpu")
    logits = [given["logits 0"]]
    for name, field in details._asdict().items():
        if field.numel():
            with pytest.raises(ValueError, match=rf"details_out.{name}: {wanted}"):
                fused_mix(logits * 2, [1.0, 1.0], details_out=details._replace(**{name: negated(field)}))
    with pytest.raises(ValueError, match=f"out: {wanted}"):
        fused_mix(logits, [1.0], seed=given["seed"], position=0, out=zero(given["seed"]))
    of_verify = verify_arguments()
    found = verify(of_verify, "cpu")
    for name, field in found._asdict().items():
        with pytest.raises(ValueError, match=rf"out.{name}: {wanted}"):
            verify(of_verify, "cpu", out=found._replace(**{name: negated(field)}))


def test_compiled() -> None:
    given = step_arguments()

    def tokens(a: Tensor, b: Tensor, v: Tensor, w: Tensor, temperature: Tensor, seed: Tensor) -> Tensor:
        return fused_mix([a, b], [v, w], temperature=temperature, seed=seed, position=0)

    plain = [given[name] for name in ("logits 0", "logits 1", "weights 0", "weights 1", "temperature", "seed")]
    compiled = torch.compile(tokens, fullgraph=True, backend="eager")
    assert torch.equal(compiled(*map(negated, plain)), tokens(*plain))


def test_dense_tensors_only() -> None:
    x, rows = torch.randn(2, VOCAB), torch.ones(2)
    where = {"seed": 1, "position": 0}
    for name, value in {"temperature": rows, "bias": x, "out": rows.long(), "seed": rows.long()}.items():
        with pytest.raises(TypeError, match=f"{name}: expected a dense tensor, got torch.sparse_coo"):
            fused_mix([x], [1.0], **where | {name: value.to_sparse()})
    with pytest.raises(TypeError, match=r"logits\[1\]: expected a dense tensor"):
        fused_mix([x, x.to_sparse_csr()], [1.0, 1.0])
    with pytest.raises(TypeError, match="targets: expected a dense tensor"):
        fused_score_mix([x], [1.0], rows.long().to_sparse())


class Wrapper(Tensor):
    """A tensor without memory, which leaves all operators to others."""

    @staticmethod
    def __new__(cls, like: Tensor) -> Any:
        return Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype)

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        return NotImplemented


def test_tensors_without_memory_meet_an_operator() -> None:
    x, where = torch.randn(2, VOCAB), {"seed": 1, "position": 0}
    for options in ({"temperature": Wrapper(torch.ones(2))}, {"bias": Wrapper(x)}):
        with pytest.raises(TypeError, match=r"eft_ext.step"):
            fused_mix([x], [1.0], **where, **options)
    with pytest.raises(TypeError, match=r"eft_ext.combine"):
        combine([x], [Wrapper(torch.ones(2))])
    fused_mix([x], [1.0], **where)
    with pytest.raises(RuntimeError, match="eft_ext::step"):
        torch.func.vmap(lambda row: fused_mix([row], [1.0], **where))(x[None])
    gradient = torch.func.grad(lambda row: row.sum() * fused_mix([row], [1.0], **where).ge(0).sum())(x)
    assert torch.equal(gradient, torch.full_like(x, 2.0))
