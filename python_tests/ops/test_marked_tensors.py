"""Tensors whose values are not those in their memory: torch marks them as negated, or as zero, and leaves it at that.

Expected values are torch's own: each argument is marked in turn, and the call held to plain softmax and argmax.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from eft_ext.ops import (
    StepDetails,
    VerifyResult,
    combine,
    fused_mix,
    fused_score_mix,
    fused_step,
    fused_verify,
)
from python_tests.helpers import triton_interpreter as child
from python_tests.helpers.host_cuda import Launch, library
from python_tests.helpers.step_problems import Problem

VOCAB = 70
BACKENDS = ("cpu", "reference")


def negated(x: Tensor) -> Tensor:
    return torch._neg_view(-x)


def imaginary(x: Tensor) -> Tensor:
    """The imaginary part of a conjugate, every other number of its memory."""
    return torch.complex(torch.full_like(x, 3.0), -x).conj().imag


def zero(x: Tensor) -> Tensor:
    return torch._efficientzerotensor(x.shape, dtype=x.dtype)


def step_arguments() -> dict[str, Tensor]:
    """Arguments of `fused_mix`, a tensor each; two models, three rows."""
    generator = torch.Generator().manual_seed(1)
    return {
        "logits 0": torch.randn(3, VOCAB, generator=generator) * 2,
        "logits 1": torch.randn(3, VOCAB, generator=generator),
        "weights 0": torch.tensor([1.0, 0.5, 2.0]),
        "weights 1": torch.tensor([0.25, -1.5, 1.0]),
        "temperature": torch.tensor([0.5, 1.0, 1.5]),
        "top_k": torch.tensor([20, 50, 30]),
        "top_p": torch.tensor([0.87, 0.93, 0.99]),
        "min_p": torch.tensor([0.003, 0.02, 0.07]),
        "bias": torch.randn(3, VOCAB, generator=generator),
        "token_bitmask": torch.tensor(
            [[-2, 0x7FFFFFFF, 0x3F], [0x0F0F0F0F, -1, 0x3F], [-5, -9, 0x2A]], dtype=torch.int32
        ),
        "seed": torch.tensor([5, 6, 7]),
        "position": torch.tensor([2, 3, 4]),
    }


def step(given: dict[str, Tensor], backend: str) -> StepDetails:
    options = dict(given)
    logits = [options.pop(f"logits {k}") for k in range(2)]
    weights = [options.pop(f"weights {k}") for k in range(2)]
    return fused_mix(logits, weights, return_details=True, backend=backend, **options)


def mixture_of(given: dict[str, Tensor]) -> Tensor:
    z = sum(given[f"weights {k}"].double()[:, None] * given[f"logits {k}"].double() for k in range(2))
    bits = (given["token_bitmask"][:, torch.arange(VOCAB) // 32] >> torch.arange(VOCAB) % 32) & 1
    return torch.where(bits.bool(), z + given["bias"].double(), -torch.inf)


def filtered(z: Tensor, given: dict[str, Tensor]) -> Tensor:
    """The distribution after temperature, top_k, top_p and min_p, or that of the largest logit."""
    heat = given["temperature"].double()[:, None]
    t = torch.where(heat == 0, z, z / heat)
    ranked = t.sort(dim=1, descending=True).values
    k = torch.where(given["top_k"] > 0, given["top_k"], VOCAB)
    t = torch.where(t >= ranked.gather(1, k[:, None] - 1), t, -torch.inf)
    p, order = t.softmax(dim=1).sort(dim=1, descending=True, stable=True)
    kept = p.cumsum(dim=1) - p < given["top_p"].double()[:, None] * (1 - 2.0**-21)
    kept[:, 0] = True
    kept &= p >= given["min_p"].double()[:, None] * p[:, :1]
    kept[:, 1:] &= heat > 0
    p = torch.zeros_like(p).scatter(1, order, torch.where(kept, p, 0.0))
    return p / p.sum(dim=1, keepdim=True)


def assert_details(found: StepDetails, given: dict[str, Tensor]) -> None:
    """The step's details are those that torch computes of the values given."""
    z = mixture_of(given)
    if not z.isfinite().any():
        assert found.status.tolist() == [1, 1, 1]
        return
    token = found.tokens[:, None]
    p, raw = filtered(z, given), z.log_softmax(dim=1)
    torch.testing.assert_close(found.logprobs.double(), p.gather(1, token)[:, 0].log(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.raw_logprobs.double(), raw.gather(1, token)[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.entropy.double(), torch.special.entr(raw.exp()).sum(dim=1), rtol=1e-4, atol=1e-5)
    assert found.num_kept.tolist() == (p > 0).sum(dim=1).tolist()
    for k in range(2):
        own = given[f"logits {k}"].double().log_softmax(dim=1).gather(1, token)[:, 0]
        torch.testing.assert_close(found.model_logprobs[:, k].double(), own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", step_arguments())
def test_step(name: str, backend: str) -> None:
    given = step_arguments()
    plain = step(given, backend)
    assert_details(plain, given)
    # The last dimension of logits and bias is contiguous, so they are no imaginary part.
    for mark in [negated, imaginary] if given[name].dim() == 1 and given[name].is_floating_point() else [negated]:
        for x, y in zip(step(given | {name: mark(given[name])}, backend), plain, strict=True):
            assert torch.equal(x, y), (name, mark)
    nothing = given | {name: torch.zeros_like(given[name])}
    found = step(given | {name: zero(given[name])}, backend)
    assert_details(found, nothing)
    assert torch.equal(found.tokens, step(nothing, backend).tokens)


def test_triton(interpreter: child.Interpreter) -> None:
    given = step_arguments()
    marked = {name: negated(x) for name, x in given.items()} | {"min_p": imaginary(given["min_p"])}
    logits, weights = ([marked.pop(f"{name} {k}") for k in range(2)] for name in ("logits", "weights"))
    found = interpreter.call(child.made_up, Problem(logits, weights, marked))
    assert_details(found, given)
    assert torch.equal(found.tokens, step(given, "cpu").tokens)


def test_cuda_kernels() -> None:
    given, host = step_arguments(), library()
    want = step(given, "cpu").tokens
    with host.installed():
        host.launch = Launch(kernel="streaming", blocks=2)
        found = step({name: negated(x) for name, x in given.items()}, "cpu")
    assert_details(found, given)
    assert torch.equal(found.tokens, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_combine_and_weights_in_one_tensor(backend: str) -> None:
    x = [
        torch.randn(2, 9, generator=torch.Generator().manual_seed(k)).mul(8).round() for k in range(2)
    ]  # sums are exact
    for weights in (torch.tensor([0.5, 2.0]), torch.tensor([[0.5, 2.0], [-1.0, 0.25]])):
        want = weights[..., 0, None] * x[0] + weights[..., 1, None] * x[1]
        for marked in (negated(weights), imaginary(weights)):
            assert torch.equal(combine([negated(x[0]), x[1]], marked, backend=backend), want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("option", ["scale", "conservative_top_p", "beta"])
def test_options_of_fused_step(option: str, backend: str) -> None:
    logits = [torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    value = torch.tensor([0.9, 0.5, 0.2])
    options = {"return_details": True, "seed": 1, "position": 0, "backend": backend}
    want = fused_step(*logits, **{option: value}, **options)
    for mark in (negated, imaginary):
        found = fused_step(*logits, **{option: mark(value)}, **options)
        assert all(torch.equal(x, y) for x, y in zip(found, want, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_score(backend: str) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = [torch.randn(2, 3, VOCAB, generator=generator) for _ in range(2)]
    targets = torch.randint(0, VOCAB, (2, 3), generator=generator)
    weights = [torch.tensor([0.5, 2.0]), torch.tensor([1.0, -1.0])]
    z = sum(w.double()[:, None, None] * x.double() for w, x in zip(weights, logits, strict=True))
    own = [x.double().log_softmax(dim=2).gather(2, targets[..., None]) for x in (*logits, z)]
    want = torch.cat(own, dim=2)
    sliced = torch.cat([logits[0], logits[0]], dim=1)[:, :3]  # rows that lie apart, and are scored in pieces
    calls = {
        "logits": ([negated(logits[0]), logits[1]], weights, targets),
        "logits in pieces": ([torch._neg_view(-torch.cat([logits[0]] * 2, dim=1))[:, :3], sliced], weights, targets),
        "weights": (logits, [negated(weights[0]), imaginary(weights[1])], targets),
        "targets": (logits, weights, negated(targets)),
    }
    for name, call in calls.items():
        found = fused_score_mix(*call, backend=backend).logprobs
        if name == "logits in pieces":
            found, expected = found[..., 0], want[..., 0]
        else:
            expected = want
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    found = fused_score_mix([zero(logits[0]), logits[1]], weights, zero(targets), backend=backend).logprobs
    assert torch.allclose(found[..., 0], torch.tensor(1 / VOCAB).log())


def verify_arguments() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "drafts": torch.randint(0, VOCAB, (4, 2), generator=generator),
        "draft_logits": torch.randn(4, 2, VOCAB, generator=generator),
        "logits": torch.randn(4, 3, VOCAB, generator=generator),
        "weights": torch.tensor([1.0, 2.0, -1.0, 0.5]),
        "lengths": torch.tensor([2, 1, 2, 0]),
        **{name: torch.full((4,), value) for name, value in {"temperature": 1.0, "top_p": 0.9, "min_p": 0.01}.items()},
        **{f"draft_{n}": torch.full((4,), v) for n, v in {"temperature": 0.7, "top_p": 0.8, "min_p": 0.02}.items()},
        "top_k": torch.tensor([60, 0, 50, 40]),
        "draft_top_k": torch.tensor([50, 60, 0, 40]),
        "bias": torch.randn(VOCAB, generator=generator),
        "token_bitmask": torch.randint(-(2**31) + 1, 2**31, (4, 3, 3), generator=generator, dtype=torch.int32),
        "seed": torch.tensor([5, 6, 7, 8]),
        "position": torch.tensor([2, 3, 4, 5]),
    }


def verify(given: dict[str, Tensor], backend: str, **more: Any) -> VerifyResult:
    options = given | more
    call = (options.pop("drafts"), options.pop("draft_logits"), [options.pop("logits")], [options.pop("weights")])
    return fused_verify(*call, backend=backend, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", verify_arguments())
def test_verify(name: str, backend: str) -> None:
    given = verify_arguments()
    changed = given | {name: negated(given[name])}
    for x, y in zip(verify(changed, backend), verify(given, backend), strict=True):
        assert torch.equal(x, y)
    if name in ("drafts", "logits", "weights", "bias", "token_bitmask", "lengths"):
        # With a temperature of 0 what stands is where the drafts are the largest: torch's own argmax.
        z = given["weights"][:, None, None] * given["logits"] + given["bias"]
        at = torch.arange(VOCAB)
        largest = z.masked_fill((given["token_bitmask"][..., at // 32] >> at % 32) & 1 == 0, -torch.inf).argmax(dim=2)
        given["drafts"], given["draft_logits"] = torch.stack([largest[:, 0], largest[:, 0]], dim=1), None
        given["temperature"] = given["draft_temperature"] = torch.zeros(4)
        found = verify(given | {name: negated(given[name])}, backend, draft_temperature=0.0)
        stands = (given["drafts"][:, 1] == largest[:, 1]).long()
        accepted = torch.where(given["lengths"] == 2, 1 + stands, given["lengths"])
        assert torch.equal(found.num_accepted, accepted)
        assert torch.equal(found.tokens.gather(1, accepted[:, None]), largest.gather(1, accepted[:, None]))
