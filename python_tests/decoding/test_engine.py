"""The loop: rows that begin, end and follow each other, with the host behind the device."""

import pytest
import torch

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.engine import Engine
from eft_ext.decoding.requests import InvalidRow, Request
from eft_ext.hf.generation.draw import MixtureDraw
from eft_ext.hf.generation.mixture import Mixture
from eft_ext.methods import UpScale
from python_tests.helpers.slow_params import slowly

GREEDY = {"temperature": 0.0}
SAMPLED = {"temperature": 1.2, "top_p": 0.95}


@pytest.fixture
def trio(model_of):
    return [model_of("llama", 0, 32, 272), model_of("llama", 1, 16), model_of("llama", 2, 16)]


def decode(trio, batch, budgets, options=GREEDY, ends=(), seeds=(5, 6, 7, 8), beta=1.0, ahead=0, **engine):
    ids, mask = batch
    jobs = [Request(i, seeds[i], budget) for i, budget in enumerate(budgets)]
    draw = MixtureDraw(Mixture(UpScale(beta)), options, len(jobs), torch.device("cpu"))
    made = Engine([StaticCacheModel(model) for model in trio], draw, ends, ahead=ahead, **engine)
    made.start(jobs, [(ids[: len(jobs)], mask[: len(jobs)])] * 3)
    tokens = {job.number: [] for job in jobs}
    for news in made.run():
        for job, token, last, _ in news:
            tokens[job].append(token)
            assert last == (token in ends or len(tokens[job]) == budgets[job])
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
@pytest.mark.parametrize("ahead", [1, 3, 7])
def test_how_far_the_host_is_behind_changes_nothing(trio, ragged, options, ahead):
    budgets = [40, 17, 33, 5]
    free = decode(trio, ragged, budgets, options)
    ends = {free[0][4], free[2][20]}
    expected = [row[: min((i for i, token in enumerate(row) if token in ends), default=len(row)) + 1] for row in free]
    assert expected != free
    for late in (0, ahead):
        assert decode(trio, ragged, budgets, options, ends, ahead=late) == expected


@pytest.mark.parametrize("ahead", [0, 4])
def test_a_row_that_ends_at_the_end_of_a_table(model_of, ahead):
    """The host, which does not know of the end yet, must not ask for positions that there are not."""
    models = [model_of("gpt2", seed, 16) for seed in range(3)]
    prompt = torch.full((1, models[0].config.n_positions - 6), 5)
    free = naive(models, prompt[0].tolist(), 7)
    end = next(token for token in free[3:] if free.index(token) >= 3)
    expected = free[: free.index(end) + 1]
    assert decode(models, (prompt, torch.ones_like(prompt)), [100], ends={end}, ahead=ahead) == [expected]
    with pytest.raises(ValueError, match="table of"):
        decode(models, (prompt, torch.ones_like(prompt)), [100], ahead=ahead)


@pytest.mark.parametrize("ahead", [0, 4])
def test_batches_of_few_sizes(trio, ragged, ahead):
    """Idle rows stand in until the batch fits a smaller bucket."""
    budgets = [40, 17, 3, 5]
    expected = decode(trio, ragged, budgets, SAMPLED)
    assert decode(trio, ragged, budgets, SAMPLED, ahead=ahead, bucket=lambda n: 4 if n > 2 else 2) == expected


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [0, 3])
def test_jobs_take_the_places_of_those_that_ended(trio, ragged, ahead):
    rows = rows_of(ragged)
    budgets = [7, 2, 5, 30, 1, 8, 3, 12, 6, 20]
    rows = [rows[i % 4] + [100 + i] * (i // 4) for i in range(len(budgets))]
    seeds, betas = list(range(50, 60)), torch.linspace(0.0, 1.5, 10)

    def alone(i):
        ids = torch.tensor([rows[i]])
        return decode(trio, (ids, ids > 0), budgets[i : i + 1], SAMPLED, seeds=seeds[i:], beta=float(betas[i]))[0]

    draw = MixtureDraw(Mixture(UpScale(betas)), SAMPLED, 3, torch.device("cpu"))
    engine = Engine([StaticCacheModel(model) for model in trio], draw, [], ahead=ahead)
    waiting = [(Request(i, seeds[i], budget), rows[i]) for i, budget in enumerate(budgets)]

    def take(n):
        taken, waiting[:n] = waiting[:n], []
        longest = max(len(row) for _, row in taken)
        ids = torch.tensor([[0] * (longest - len(row)) + row for _, row in taken])
        return [job for job, _ in taken], [(ids, (ids > 0).long())] * 3

    tokens = {i: [] for i in range(len(budgets))}
    engine.start(*take(3))
    for news in engine.run():
        for job, token, *_ in news:
            tokens[job].append(token)
        if engine.free and waiting:
            engine.admit(*take(engine.free))
    assert list(tokens.values()) == [alone(i) for i in range(len(budgets))]


def test_an_invalid_row_is_named(trio, ragged, build):
    broken = build("llama", 0, 32, 272)
    with torch.no_grad():
        broken.lm_head.weight[9] = torch.nan
    with pytest.raises(InvalidRow, match=r"^row 0, new token 0"):
        decode([broken, *trio[1:]], ragged, [3] * 4)
