"""The integer step against the float64 oracle, and the walk from bits to a token."""

from __future__ import annotations

import math
from functools import cache

import pytest
import scipy.stats
import torch
from torch import Tensor

from eft_ext.ops.reference import combine, distribution, random_bits, row_seed, step
from eft_ext.ops.reference.arithmetic import inverse_temperature, scaled
from eft_ext.ops.reference.draw import SurvivorMasses, draw, survivors
from eft_ext.ops.reference.mass import Masses, masses
from eft_ext.ops.reference.options import sampling_options
from python_tests.helpers.rows import ROWS, STEP_OPTIONS, models
from python_tests.helpers.slow_params import slowly

SAMPLED = {name: o for name, o in STEP_OPTIONS.items() if o.get("temperature", 1.0) >= 2.0**-20}
FILTERS = ("top_k", "top_p", "min_p")


def filtered(z: Tensor, **options: float) -> SurvivorMasses:
    """Survivors of z's rows, which must be valid."""
    given = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | options
    chosen = sampling_options(z, **given)  # type: ignore[arg-type]
    return survivors(scaled(z, inverse_temperature(chosen.temperature)), chosen)


def repeated(left: SurvivorMasses, times: int) -> SurvivorMasses:
    """One row as `times` rows, without copies."""
    mass = Masses(*(part.expand(times, *part.shape[1:]) for part in left.mass))
    return SurvivorMasses(*(part.expand(times, *part.shape[1:]) for part in left[:3]), mass)


def implied(left: SurvivorMasses, vocab: int) -> Tensor:
    """A token's probability: its tile's share of the row, times its share of the tile, float64 [B, V]."""
    share, weight = left.share.double(), left.weight.double()
    tile = share / share.sum(dim=1, keepdim=True)
    within = weight / weight.sum(dim=2, keepdim=True).clamp(min=1)
    return (tile[:, :, None] * within).flatten(1)[:, :vocab]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("vocab", [31, *slowly(1, 2100)])
def test_integer_masses_against_the_oracle(name: str, vocab: int) -> None:
    """Kept sets within 1e-6 of mass, probabilities to 1e-5 (1e-4 below 1e-6).

    The integers resolve 2^-40 of the largest token: two truncations lose less than a unit each.
    """
    x = models(name, 3, 3, vocab, seed=vocab)
    weights = [1.0, 0.5, -0.5]
    z = combine(x, weights)
    oracle_of = cache(lambda *options: distribution(x, weights, **dict(options)))
    for option_name, options in SAMPLED.items():
        oracle = oracle_of(*options.items())
        whole = oracle_of(*((k, v) for k, v in options.items() if k not in FILTERS))
        valid = ~oracle.isnan().any(dim=1)
        details = step(x, weights, seed=3, position=1, **options)
        assert details.status.tolist() == (~valid).int().tolist(), option_name
        if not bool(valid.any()):
            continue
        left = filtered(z[valid], **options)
        oracle, whole = oracle[valid], whole[valid]
        assert details.num_kept[valid].tolist() == left.kept.sum(dim=1).tolist()
        differ = torch.where(left.kept != (oracle > 0), whole, 0.0)
        assert differ.sum(dim=1).max() <= 1e-6, option_name
        if torch.equal(left.kept, oracle > 0):
            probs = implied(left, vocab)
            bound = torch.where(oracle < 1e-6, 1e-4, 1e-5) * oracle
            unit = 2.0**-39 * oracle.amax(dim=1, keepdim=True)
            assert bool(((probs - oracle).abs() <= bound + unit).all()), option_name


def test_drawn_tokens_survive_and_are_described() -> None:
    x = models("lm", 3, 8, 3000, torch.bfloat16)
    weights = [1.0, 1.0, -1.0]
    options = {"temperature": 0.8, "top_k": 60, "top_p": 0.95, "min_p": 0.01}
    d = step(x, weights, seed=11, position=2, top_logprobs=5, **options)
    token = d.tokens[:, None]
    rel = {"rtol": 1e-5, "atol": 1e-6}

    probs = distribution(x, weights, **options)
    torch.testing.assert_close(d.logprobs.double(), probs.gather(1, token).log().squeeze(1), **rel)
    raw = torch.log_softmax(combine(x, weights).double(), dim=1)
    torch.testing.assert_close(d.raw_logprobs.double(), raw.gather(1, token).squeeze(1), **rel)
    torch.testing.assert_close(d.entropy.double(), -(raw.exp() * raw).sum(dim=1), **rel)
    own = torch.cat([torch.log_softmax(v.double(), dim=1).gather(1, token) for v in x], dim=1)
    torch.testing.assert_close(d.model_logprobs.double(), own, **rel)
    best = raw.topk(5, dim=1)
    torch.testing.assert_close(d.top_logprobs.double(), best.values, **rel)
    assert d.num_kept.tolist() == (probs > 0).sum(dim=1).tolist()
    dtypes = [torch.int64, *[torch.float32] * 4, torch.int32, torch.int64, torch.float32, torch.int32]
    assert [field.dtype for field in d] == dtypes


def test_first_tokens_when_fewer_exist() -> None:
    x = torch.tensor([[1.0, -math.inf, 3.0, 1.0]])
    d = step([x], [1.0], temperature=0.0, top_logprobs=6)
    assert d.top_ids.tolist() == [[2, 0, 3, -1, -1, -1]]
    assert d.top_logprobs[0, 3:].tolist() == [-math.inf] * 3
    assert d.tokens.item() == 2
    assert d.logprobs.item() == 0
    assert d.num_kept.item() == 1
    total = math.exp(3) + 2 * math.exp(1)
    assert d.raw_logprobs.item() == pytest.approx(3 - math.log(total))
    assert d.model_logprobs.item() == pytest.approx(3 - math.log(total))


def test_a_models_own_logprobs_know_only_its_own_exclusions() -> None:
    a = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    b = torch.tensor([[0.0, 0.0, -math.inf, -math.inf]])
    token_bitmask = torch.tensor([[0b0001]], dtype=torch.int32)
    d = step([a, b], [1.0, 1.0], temperature=0.0, token_bitmask=token_bitmask)
    assert d.tokens.item() == 0
    assert d.raw_logprobs.item() == 0
    torch.testing.assert_close(d.model_logprobs, -torch.tensor([[4.0, 2.0]]).log())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nothing_comes_of_a_nan_on_an_excluded_token(value: float) -> None:
    a, b = torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 0.0, -math.inf]])
    a[0, 3] = value
    d = step([a, b], [1.0, 1.0], temperature=0.0)
    assert d.status.item() == 0
    torch.testing.assert_close(d.model_logprobs, -torch.tensor([[3.0, 3.0]]).log())


@pytest.mark.parametrize("name", ["lm", "cliffs", "two_level", "wide"])
def test_even_bits_draw_in_proportion(name: str) -> None:
    """4096 evenly spaced draws walk the row by ascending id; each token gets its share, to the draw."""
    draws, vocab = 4096, 3000
    z = ROWS[name](1, vocab, torch.float32, 0)
    left = filtered(z, top_p=0.98)
    tokens = draw(repeated(left, draws), [(2 * i + 1) << 51 for i in range(draws)])
    assert bool((tokens.diff() >= 0).all())
    counts = torch.bincount(tokens, minlength=vocab).double()
    expected = implied(left, vocab)[0] * draws
    assert (counts - expected).abs().max() < 1.001
    assert (counts.cumsum(0) - expected.cumsum(0)).abs().max() < 0.501


def test_the_ends_of_the_walk() -> None:
    z = ROWS["cliffs"](1, 5000, torch.float32, 1)
    left = filtered(z)
    has_mass = (left.weight * (left.share > 0)[:, :, None]).flatten().nonzero().flatten()
    assert draw(left, [0]).item() == has_mass[0]
    assert draw(left, [2**64 - 1]).item() == has_mass[-1]


def test_a_draw_on_the_edge_belongs_to_the_next_token() -> None:
    for vocab in (2, 2048):  # the edge lies inside a tile, and between two
        left = filtered(torch.zeros(1, vocab))
        below, edge = (draw(left, [2**63 + offset]).item() for offset in (-1, 0))
        assert (below, edge) == (vocab // 2 - 1, vocab // 2)


def test_filters_that_are_off_keep_tokens_without_mass() -> None:
    z = ROWS["one_hot"](1, 100, torch.float32, 0)
    assert filtered(z).kept.sum() == 100
    assert filtered(z, top_p=1.0 - 2.0**-24).kept.sum() == 1
    assert filtered(z, top_k=100).kept.sum() == 100


def test_tiles_far_below_contribute_nothing() -> None:
    z = torch.zeros(1, 2048)
    z[:, 1024:] = -40.0 * math.log(2)
    assert masses(scaled(z, inverse_temperature(torch.ones(1)))).row_n.item() == 0
    assert filtered(z).share.tolist() == [[1024 << 40, 1024]]
    z[:, 1024:] = -52.0 * math.log(2)
    assert filtered(z).share.tolist() == [[1024 << 40, 0]]
    z[:, 1024:] = -1e30
    assert filtered(z).share.tolist() == [[1024 << 40, 0]]


def test_frequencies() -> None:
    """Draws over rows and positions follow the distribution: χ² over 12,000 draws with the tail pooled."""
    vocab, rows, positions = 300, 300, 40
    x = models("lm", 1, 1, vocab, seed=2)[0]
    options = {"temperature": 2.0, "top_p": 0.99}
    bits = [random_bits(row_seed(9, b), place) for place in range(positions) for b in range(rows)]
    tokens = draw(repeated(filtered(x, **options), len(bits)), bits)
    first = step([x.expand(rows, vocab)], [1.0], seed=9, position=0, **options).tokens
    assert torch.equal(first, tokens[:rows])

    expected = distribution([x], [1.0], **options)[0] * len(bits)
    counts = torch.bincount(tokens, minlength=vocab).double()
    assert counts[expected == 0].sum() == 0
    common = expected >= 50
    pooled = [torch.cat([v[common], v[~common].sum()[None]]).numpy() for v in (counts, expected)]
    assert pooled[1][-1] >= 10
    assert scipy.stats.chisquare(*pooled).pvalue > 1e-3


def test_one_row_by_hand() -> None:
    """The highest random bit decides between two equal tokens, with key and counter as in numerics.md §5."""
    x = torch.zeros(5, 2)
    expected = [random_bits(row_seed(77, b), 123456789012) >> 63 for b in range(5)]
    assert step([x], [1.0], seed=77, position=123456789012).tokens.tolist() == expected


def test_tensor_seeds_stand_as_they_are_and_the_slot_has_no_influence() -> None:
    x = models("lm", 2, 6, 2000)
    seeds = torch.tensor([1, -1, 2**63 - 1, 0, 5, 5])
    places = torch.tensor([0, 1, 2**40, 3, 4, 4])
    heat = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 1.0])
    options = {"top_p": 0.9, "top_k": torch.tensor([0, 0, 10, 0, 5, 0])}
    together = step(x, [1.0, 0.5], temperature=heat, seed=seeds, position=places, **options)
    assert len(set(together.tokens.tolist())) > 2
    for b in range(6):
        alone = step(
            [v[b : b + 1] for v in x],
            [1.0, 0.5],
            temperature=heat[b].item(),
            top_p=0.9,
            top_k=int(options["top_k"][b]),
            seed=seeds[b : b + 1],
            position=int(places[b]),
        )
        for one, many in zip(alone, together, strict=True):
            assert torch.equal(one[0], many[b])
    keys = torch.tensor([row_seed(42, b) for b in range(6)], dtype=torch.uint64).view(torch.int64)
    scalar = step(x, [1.0, 0.5], seed=42, position=7)
    assert torch.equal(scalar.tokens, step(x, [1.0, 0.5], seed=keys, position=7).tokens)
