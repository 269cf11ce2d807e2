"""The mixture's logits and the oracle: formulas, transformers' processors, ties, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from eft_ext.ops.reference import combine, distribution, fma32, step
from python_tests.helpers.rows import models

F32 = torch.float32


def separated(batch: int, vocab: int, seed: int) -> Tensor:
    """Rows without near ties, fp32: a jittered ladder over 20 nats in random order."""
    generator = torch.Generator().manual_seed(seed)
    ladder = torch.linspace(-10, 10, vocab) + 0.3 * 20 / vocab * torch.rand(batch, vocab, generator=generator)
    order = torch.rand(batch, vocab, generator=generator).argsort(dim=1)
    return ladder.gather(1, order)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, F32], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_combine_is_the_formula(count: int, dtype: torch.dtype) -> None:
    x = models("lm", count, 3, 1000, dtype)
    weights = [1.0, 0.7, -0.7, 0.25][:count]
    bias = torch.randn(1000)
    z = weights[0] * x[0].float()
    for w, v in zip(weights[1:], x[1:], strict=True):
        z = fma32(torch.full((1, 1), w), v.float(), z)
    assert torch.equal(combine(x, weights, bias=bias), z + bias)
    exact = sum(w * v.double() for w, v in zip(torch.tensor(weights).double(), x, strict=True)) + bias
    torch.testing.assert_close(combine(x, weights, bias=bias).double(), exact, rtol=2**-22, atol=2**-18)


def test_weights_in_every_shape_agree() -> None:
    x = models("lm", 3, 4, 50)
    weights = torch.tensor([1.0, 0.3, -0.3])
    expected = combine(x, [1.0, 0.3, -0.3])
    assert torch.equal(combine(x, weights), expected)
    assert torch.equal(combine(x, weights.expand(4, 3)), expected)
    assert torch.equal(combine(x, [weights[0].expand(4), 0.3, weights[2]]), expected)
    rows = torch.tensor([[1.0, b, -b] for b in (0.0, 0.5, 1.0, 2.0)])
    each = [combine([v[i : i + 1] for v in x], rows[i]) for i in range(4)]
    assert torch.equal(combine(x, rows), torch.cat(each))


def test_exclusion_is_tested_on_each_models_own_dtype() -> None:
    lowest = torch.finfo(torch.bfloat16).min
    a = torch.tensor([[0.0, lowest, 2.0, 3.0, math.nan]]).bfloat16()
    b = torch.tensor([[0.0, 1.0, -math.inf, lowest, -math.inf]], dtype=F32)
    # Token 3: bf16's lowest value is a number in fp32. Token 4 is excluded, so its NaN does not count.
    z = combine([a, b], [1.0, 0.0])
    assert z.tolist() == [[0.0, -math.inf, -math.inf, 3.0, -math.inf]]
    probs = distribution([a, b], [1.0, 0.0])
    assert probs[0, [1, 2, 4]].sum() == 0
    assert probs.sum() == pytest.approx(1)


def test_allowed_masks_bits_of_int32_words() -> None:
    x = torch.zeros(2, 70)
    token_bitmask = torch.zeros(2, 3, dtype=torch.int32)
    token_bitmask[0, 0], token_bitmask[0, 2], token_bitmask[1, 1] = -(2**31), 1, 2  # tokens 31 and 64; token 33
    assert (combine([x], [1.0], token_bitmask=token_bitmask) == 0).nonzero().tolist() == [[0, 31], [0, 64], [1, 33]]


def test_padding_is_never_read_and_strides_do_not_matter() -> None:
    x = models("lm", 2, 3, 100)
    wide = torch.full((3, 7, 130), math.nan)
    wide[:, 4, :100] = x[0]
    padded = [wide[:, 4], torch.nn.functional.pad(x[1], (0, 5), value=math.inf)]
    assert torch.equal(combine(padded, [1.0, -0.5], vocab_size=100), combine(x, [1.0, -0.5]))


@pytest.mark.parametrize("vocab", [1000, 5000])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, 0, 1.0, 0.0),
        (0.7, 0, 0.9, 0.0),
        (1.3, 50, 1.0, 0.0),
        (1.0, 0, 1.0, 0.05),
        (0.8, 200, 0.95, 0.02),
        (5.0, 400, 0.5, 0.3),
    ],
)
def test_distribution_is_the_processors_chain(
    vocab: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    x = [separated(4, vocab, 0), *models("lm", 2, 4, vocab)]
    weights = [1.0, 0.01, -0.01]
    chain = LogitsProcessorList()
    if top_k:
        chain.append(TopKLogitsWarper(top_k))
    chain.append(TopPLogitsWarper(torch.tensor(top_p).item()))
    chain.append(MinPLogitsWarper(torch.tensor(min_p).item()))
    z = sum(w * v.double() for w, v in zip(torch.tensor(weights).double(), x, strict=True))
    expected = torch.softmax(chain(None, z / torch.tensor(temperature).double()), dim=1)
    probs = distribution(x, weights, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert torch.equal(probs > 0, expected > 0)
    torch.testing.assert_close(probs, expected, rtol=1e-5, atol=0)


TIES = {
    "top_k keeps ties": ({"top_k": 2}, [3.0, 1.0, 2.0, 2.0], [0, 2, 3]),
    "top_k without ties": ({"top_k": 3}, [3.0, 1.0, 2.0, 2.0], [0, 2, 3]),
    "top_k beyond V": ({"top_k": 9}, [3.0, 1.0, -math.inf, 2.0], [0, 1, 3]),
    "top_k of equals is all": ({"top_k": 1}, [1.0] * 4, [0, 1, 2, 3]),
    "top_p takes equals by id": ({"top_p": 0.35}, [0.0] * 10, [0, 1, 2, 3]),
    "top_p stops at equality": ({"top_p": 0.5}, [0.0] * 4, [0, 1]),
    "top_p = 0 keeps the first": ({"top_p": 0.0}, [1.0, 5.0, 5.0], [1]),
    "top_p counts survivors of top_k": ({"top_k": 2, "top_p": 0.5}, [1.0, 1.0, 0.0, 0.0], [0]),
    "min_p = 1 keeps the ties of the largest": ({"min_p": 1.0}, [2.0, 7.0, 7.0, 6.999], [1, 2]),
    "min_p keeps equality": ({"min_p": 0.25, "temperature": 1.0}, [2.0, 0.0, 2.0], [0, 2]),
    "greedy takes the lowest id": ({"temperature": 0.0}, [1.0, 7.0, 7.0], [1]),
    "zeros of both signs tie": ({"temperature": 0.0}, [-1.0, -0.0, 0.0], [1]),
    "zeros of both signs tie in the rank": ({"top_p": 0.1}, [-1.0, -0.0, 0.0], [1]),
}


@pytest.mark.parametrize("name", TIES)
def test_ties(name: str) -> None:
    options, row, kept = TIES[name]
    x = torch.tensor([row])
    assert distribution([x], [1.0], **options)[0].nonzero().flatten().tolist() == kept
    details = step([x], [1.0], seed=5, position=0, **options)
    assert details.num_kept.item() == len(kept)
    assert details.tokens.item() in kept


def test_greedy_begins_below_two_to_minus_twenty() -> None:
    x = torch.tensor([[1.0, 1.0]]).expand(3, 2)
    heat = torch.tensor([math.nextafter(2.0**-20, 0), 2.0**-20, 1e-40], dtype=torch.float64)
    probs = distribution([x], [1.0], temperature=torch.nextafter(heat.float(), torch.zeros(3)))
    assert probs.tolist() == [[1.0, 0.0]] * 3
    assert distribution([x], [1.0], temperature=2.0**-20).tolist() == [[0.5, 0.5]] * 3


BAD_ELEMENTS = {
    "temperature": [math.nan, -0.5, math.inf],
    "top_p": [math.nan, -0.1, 1.1],
    "min_p": [math.nan, -0.1, 1.1],
    "top_k": [-1, -(2**40)],
    "position": [-1],
}


@pytest.mark.parametrize(("name", "bad"), [(name, bad) for name, v in BAD_ELEMENTS.items() for bad in v])
def test_a_bad_element_spoils_its_row_only_and_a_bad_number_raises(name: str, bad: float) -> None:
    x = models("lm", 2, 3, 64)
    keys = torch.arange(3)
    good = {"temperature": 0.9, "top_p": 0.8, "min_p": 0.01, "top_k": 20, "position": 4}
    column = torch.tensor([good[name]] * 3)
    column[1] = bad
    before = step(x, [1.0, 0.5], seed=keys, **good)
    after = step(x, [1.0, 0.5], seed=keys, **(good | {name: column}))
    expect_blank(after, 1, before)
    if name != "position":
        options = {k: v for k, v in good.items() if k != "position"} | {name: column}
        assert distribution(x, [1.0, 0.5], **options).isnan().any(dim=1).tolist() == [False, True, False]
    with pytest.raises(ValueError, match=name):
        step(x, [1.0, 0.5], seed=keys, **(good | {name: bad}))


def expect_blank(details: tuple[Tensor, ...], row: int, untouched: tuple[Tensor, ...]) -> None:
    """Row `row` says nothing, the others what they said before."""
    said = details._asdict()  # type: ignore[attr-defined]
    assert said["tokens"][row] == -1
    assert said["num_kept"][row] == 0
    assert said["status"][row] == 1
    assert bool((said["top_ids"][row] == -1).all())
    for name in ("logprobs", "raw_logprobs", "model_logprobs", "entropy", "top_logprobs"):
        assert bool(said[name][row].isnan().all()), name
    others = [b for b in range(len(said["tokens"])) if b != row]
    for field, expected in zip(details, untouched, strict=True):
        assert torch.equal(field[others], expected[others])


@pytest.mark.parametrize("spoil", ["nan", "inf", "excluded"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_invalid_rows(spoil: str, temperature: float) -> None:
    options = {"temperature": temperature, "seed": torch.arange(3), "position": 1, "top_logprobs": 2}
    before = step(models("lm", 3, 3, 40), [1.0, 1.0, -1.0], **options)
    x = models("lm", 3, 3, 40)
    x[2][1] = {"nan": math.nan, "inf": -math.inf, "excluded": -math.inf}[spoil]
    if spoil == "inf":
        x[2][1], x[1][1, 7] = 0.0, math.inf
    expect_blank(step(x, [1.0, 1.0, -1.0], **options), 1, before)
    assert distribution(x, [1.0, 1.0, -1.0]).isnan().all(dim=1).tolist() == [False, True, False]


def test_overflow_excludes_downwards_and_invalidates_upwards() -> None:
    x = torch.tensor([[0.0, -3e38], [0.0, 3e38], [-3e38, -3e38]])
    # Scaled by 2 / ln 2, row 0 keeps token 0, row 1 has +inf, row 2 nothing; greedy looks at z alone.
    sampled = step([x], [1.0], temperature=0.5, seed=1, position=0)
    assert sampled.tokens.tolist() == [0, -1, -1]
    assert sampled.status.tolist() == [0, 1, 1]
    assert step([x], [1.0], temperature=0.0).tokens.tolist() == [0, 1, 0]
    assert step([x], [2.0], temperature=0.0).tokens.tolist() == [0, -1, -1]


def test_weights_that_are_not_finite() -> None:
    x = models("lm", 2, 3, 40)
    weights = torch.tensor([[1.0, 0.5], [1.0, math.inf], [1.0, 0.5]])
    before = step(x, [1.0, 0.5], seed=torch.arange(3), position=0)
    expect_blank(step(x, weights, seed=torch.arange(3), position=0), 1, before)
    assert combine(x, weights).isnan().all(dim=1).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="weights"):
        combine(x, [1.0, math.nan])


def test_wrong_shapes_and_missing_seeds_raise() -> None:
    x = torch.zeros(2, 8)
    for name, call in (
        ("logits", lambda: combine([], [])),
        ("logits", lambda: combine([x] * 5, [1.0] * 5)),
        ("logits", lambda: combine([x, x[:1]], [1.0, 1.0])),
        ("logits", lambda: combine([x[0]], [1.0])),
        ("logits", lambda: combine([x[:0]], [1.0])),
        ("weights", lambda: combine([x], [1.0, 2.0])),
        ("weights", lambda: combine([x], torch.ones(3, 1))),
        ("vocab_size", lambda: combine([x], [1.0], vocab_size=9)),
        ("bias", lambda: combine([x], [1.0], bias=torch.zeros(7))),
        ("token_bitmask", lambda: combine([x], [1.0], token_bitmask=torch.zeros(2, 0, dtype=torch.int32))),
        ("temperature", lambda: distribution([x], [1.0], temperature=torch.ones(3))),
        ("seed", lambda: step([x], [1.0])),
        ("position", lambda: step([x], [1.0], seed=1)),
        ("seed", lambda: step([x], [1.0], seed=torch.zeros(3, dtype=torch.int64), position=0)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: "):
            call()
    with pytest.raises(TypeError, match="top_k"):
        distribution([x], [1.0], top_k=torch.ones(2))
