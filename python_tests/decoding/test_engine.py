"""The loop: rows that begin, end and follow each other, with the host behind the device."""

import pytest
import torch

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.engine import Engine
from eft_ext.decoding.mixture import Mixture
from eft_ext.decoding.requests import InvalidRow, Request
from eft_ext.decoding.sampler import Sampler
from eft_ext.methods import UpScale
from python_tests.helpers.plain_rounds import method_of_row
from python_tests.helpers.slow_params import slowly

GREEDY = {"temperature": 0.0}
SAMPLED = {"temperature": 1.2, "top_p": 0.95}


@pytest.fixture
def trio(model_of):
    return [model_of("llama", 0, 32, 272), model_of("llama", 1, 16), model_of("llama", 2, 16)]


def decode(trio, batch, budgets, options=GREEDY, ends=(), seeds=(5, 6, 7, 8), beta=1.0, lag=0, **engine):
    ids, mask = batch
    requests = [Request(i, seeds[i], budget) for i, budget in enumerate(budgets)]
    rows = len(requests)
    sampler = Sampler(Mixture(UpScale(beta), rows), options)
    made = Engine([StaticCacheModel(model) for model in trio], sampler, ends, lag=lag, **engine)
    made.start(requests, [(ids[:rows], mask[:rows])] * 3)
    tokens = {request.number: [] for request in requests}
    for outputs in made.run():
        for number, token, last, _ in outputs:
            tokens[number].append(token)
            assert last == (token in ends or len(tokens[number]) == budgets[number])
    return list(tokens.values())


@torch.no_grad()
def naive(trio, row, budget, beta=1.0):
    """Greedy, three passes over everything at each token."""
    row, new = list(row), []
    for _ in range(budget):
        z = [model(torch.tensor([row])).logits[0, -1, :264] for model in trio]
        new.append(int((z[0] + beta * (z[1] - z[2])).argmax()))
        row.append(new[-1])
    return new


def rows_of(batch):
    return [row[keep.bool()].tolist() for row, keep in zip(*batch, strict=True)]


def test_tokens_are_those_of_the_naive_loop(trio, ragged):
    betas = torch.tensor([0.5, 1.0, 0.0, 1.5])
    budgets = [9, 3, 12, 1]
    expected = [naive(trio, row, n, float(b)) for row, n, b in zip(rows_of(ragged), budgets, betas, strict=True)]
    assert decode(trio, ragged, budgets, beta=betas) == expected


@pytest.mark.parametrize("options", [*slowly(GREEDY), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("lag", [1, 3, 7])
def test_how_far_the_host_is_behind_changes_nothing(trio, ragged, options, lag):
    budgets = [40, 17, 33, 5]
    free = decode(trio, ragged, budgets, options)
    ends = {free[0][4], free[2][20]}
    expected = [row[: min((i for i, token in enumerate(row) if token in ends), default=len(row)) + 1] for row in free]
    assert expected != free
    for late in (0, lag):
        assert decode(trio, ragged, budgets, options, ends, lag=late) == expected


@pytest.mark.parametrize("lag", [0, 4])
def test_a_row_that_ends_at_the_end_of_a_table(model_of, lag):
    """The host, which does not know of the end yet, must not ask for positions that there are not."""
    models = [model_of("gpt2", seed, 16) for seed in range(3)]
    prompt = torch.full((1, models[0].config.n_positions - 6), 5)
    free = naive(models, prompt[0].tolist(), 7)
    end = next(token for token in free[3:] if free.index(token) >= 3)
    expected = free[: free.index(end) + 1]
    assert decode(models, (prompt, torch.ones_like(prompt)), [100], ends={end}, lag=lag) == [expected]
    with pytest.raises(ValueError, match="table of"):
        decode(models, (prompt, torch.ones_like(prompt)), [100], lag=lag)


@pytest.mark.parametrize("lag", [0, 4])
def test_batches_of_few_sizes(trio, ragged, lag):
    """Idle rows stand in until the batch fits a smaller bucket."""
    budgets = [40, 17, 3, 5]
    expected = decode(trio, ragged, budgets, SAMPLED)
    assert decode(trio, ragged, budgets, SAMPLED, lag=lag, bucket=lambda n: 4 if n > 2 else 2) == expected


BETAS = {
    "numbers": torch.linspace(0.0, 1.5, 10),
    "functions of the step": lambda step: [0.15 * row - 0.02 * step for row in range(10)],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BETAS)
@pytest.mark.parametrize("lag", [0, 3])
def test_requests_take_the_places_of_those_that_ended(trio, ragged, lag, kind):
    rows = rows_of(ragged)
    budgets = [7, 2, 5, 30, 1, 8, 3, 12, 6, 20]
    rows = [rows[i % 4] + [100 + i] * (i // 4) for i in range(len(budgets))]
    seeds, method = list(range(50, 60)), UpScale(BETAS[kind])

    def alone(i):
        ids, own = torch.tensor([rows[i]]), method_of_row(method, i).beta
        return decode(trio, (ids, ids > 0), budgets[i : i + 1], SAMPLED, seeds=seeds[i:], beta=own)[0]

    sampler = Sampler(Mixture(method, len(budgets), slots=3), SAMPLED)
    engine = Engine([StaticCacheModel(model) for model in trio], sampler, [], lag=lag)
    waiting = [(Request(i, seeds[i], budget), rows[i]) for i, budget in enumerate(budgets)]

    def take(n):
        taken, waiting[:n] = waiting[:n], []
        longest = max(len(row) for _, row in taken)
        ids = torch.tensor([[0] * (longest - len(row)) + row for _, row in taken])
        return [request for request, _ in taken], [(ids, (ids > 0).long())] * 3

    tokens = {i: [] for i in range(len(budgets))}
    engine.start(*take(3))
    for outputs in engine.run():
        for number, token, *_ in outputs:
            tokens[number].append(token)
        if engine.free and waiting:
            engine.admit(*take(engine.free))
    assert list(tokens.values()) == [alone(i) for i in range(len(budgets))]


@pytest.mark.parametrize("lag", [4, *slowly(0)])
def test_a_request_that_the_caller_ends(trio, ragged, lag):
    """Its further tokens are thrown away; its slot takes another request; the others draw what they draw without."""
    rows, budgets, seeds = rows_of(ragged), [20, 30, 14, 9], (5, 6, 7, 8)
    whole = decode(trio, ragged, budgets, SAMPLED)
    sampler = Sampler(Mixture(UpScale(1.0), 4, slots=3), SAMPLED)
    engine = Engine([StaticCacheModel(model) for model in trio], sampler, [], lag=lag)
    requests = [Request(i, seeds[i], budget) for i, budget in enumerate(budgets)]
    engine.start(requests[:3], [(ragged[0][:3], ragged[1][:3])] * 3)
    tokens, longest = {i: [] for i in range(4)}, 0
    for outputs in engine.run():
        for number, token, *_ in outputs:
            tokens[number].append(token)
        longest = max(longest, len(engine._pending))
        if len(tokens[1]) == 5 and requests[3:]:
            engine.end([1, 3])
            assert engine.free == 1
            engine.admit([requests.pop()], [(torch.tensor([rows[3]]), None)] * 3)
    assert longest >= lag, "nothing was drawn beyond"
    whole[1] = whole[1][:5]
    assert list(tokens.values()) == whole


def test_all_requests_may_be_ended(trio, ragged):
    sampler = Sampler(Mixture(UpScale(1.0), 2), GREEDY)
    engine = Engine([StaticCacheModel(model) for model in trio], sampler, [], lag=3)
    engine.start([Request(i, i, 40) for i in range(2)], [(ragged[0][:2], ragged[1][:2])] * 3)
    seen = 0
    for outputs in engine.run():
        seen += len(outputs)
        if seen == 6:
            engine.end([0, 1])
    assert seen == 6
    assert engine.free == 2


def test_an_invalid_row_is_named(trio, ragged, build):
    broken = build("llama", 0, 32, 272)
    with torch.no_grad():
        broken.lm_head.weight[9] = torch.nan
    with pytest.raises(InvalidRow, match=r"^row 0, new token 0"):
        decode([broken, *trio[1:]], ragged, [3] * 4)
