"""Every output of at most four tokens, enumerated: a million speculated generations have its distribution."""

import numpy as np
import pytest
import torch
from scipy import stats

from eft_ext.decoding.speculative.draft_length import Fixed
from eft_ext.decoding.speculative.drafting import draft_and_verify
from eft_ext.decoding.speculative.sampler import Sampler
from eft_ext.decoding.speculative.speculate import speculate
from eft_ext.decoding.speculative.token_source import Statistics
from eft_ext.methods import Contrast
from eft_ext.ops import reference
from eft_ext.ops.params import ConservativeParams
from python_tests.decoding.tables import END, TableReader, enumerate_outputs, tables
from python_tests.helpers.slow_params import slowly_but

VOCAB, LENGTH, ROWS = 5, 4, 250_000
PROMPT = (2, 3)

# Weights, options, options of the draft model, k, calls of ROWS generations.
METHODS = {
    "eft": ([1.0, 1.0, -1.0], {}, {}, 3, 4),
    "amplified, filtered": ([1.5, 1.0, -1.5], {"temperature": 0.8, "top_p": 0.9}, {}, 2, 4),
    "contrastive pair, own draft filters": ([1.4, -0.4], {"top_k": 4}, {"temperature": 1.3, "top_k": 3}, 3, 4),
    "two behaviours": ([1.0, 0.3, 0.7, -1.0], {"min_p": 0.05}, {}, 1, 1),
    "conservative": ([1.0, 1.0, -1.0], {"conservative_top_p": 0.7}, {}, 4, 1),
    "contrast, which excludes tokens": (Contrast(0.4, 0.1), {}, {}, 3, 4),
    "greedy draft": ([1.0, 0.6, -0.6], {}, {"temperature": 0.0}, 2, 1),
}


def many_outputs(models, sampler, k, rows, seed):
    """Outputs [rows, LENGTH], -1 behind their end, and the acceptance rate: the rounds of `speculate` on tensors."""
    readers = [TableReader(table, capacity=2 + LENGTH * (k + 1)) for table in models]
    seeds, grid = torch.arange(rows) + seed * rows, torch.full((rows, LENGTH + k + 1), -1)
    prompt = torch.tensor([PROMPT]).expand(rows, 2)
    last = sampler.step([reader.prefill(prompt) for reader in readers], seeds, seeds * 0)
    grid[:, 0], done = last, torch.ones_like(last)
    drafted = accepted = 0
    while True:
        ended = (grid == END).any(dim=1) | (done >= LENGTH)
        if ended.all():
            return grid[:, :LENGTH], accepted / drafted
        lengths = (LENGTH - 1 - done).clamp(max=k).masked_fill(ended, 0)
        verdict = draft_and_verify(readers, sampler, last, k, lengths, VOCAB, seeds, done)
        assert (verdict.status == 0).all()
        for reader in readers:
            reader.crop(reader.lengths - k + verdict.num_accepted)
        drafted += int(torch.minimum(verdict.num_accepted + 1, lengths).sum())
        accepted += int(verdict.num_accepted.sum())
        past = (verdict.tokens == END).long().cumsum(1) - (verdict.tokens == END).long() > 0
        new = verdict.tokens.masked_fill(past | ended[:, None], -1)
        places = (done[:, None] + torch.arange(k + 1)).clamp(max=LENGTH + k)
        grid.scatter_(1, places, torch.where(ended[:, None], grid.gather(1, places), new))
        last = verdict.tokens.gather(1, verdict.num_accepted[:, None])[:, 0]
        done = torch.where(ended, done, done + verdict.num_accepted + 1)


def outputs(models, sampler, k, rows, seed):
    """The same from `speculate` itself."""
    readers = [TableReader(table, capacity=2 + LENGTH + k + 1) for table in models]
    prompts = [(torch.tensor([PROMPT]).expand(rows, 2), None)] * len(readers)
    statistics = Statistics()
    seeds = torch.arange(rows) + seed * rows
    grid = torch.full((rows, LENGTH), -1)
    new = [[] for _ in range(rows)]
    for found in speculate(
        readers, prompts, sampler, Fixed(k), seeds=seeds, budgets=[LENGTH] * rows, ends=[END], statistics=statistics
    ):
        for row, tokens in zip(found.rows, found.tokens, strict=True):
            new[row] += tokens
    for row, tokens in enumerate(new):
        grid[row, : len(tokens)] = torch.tensor(tokens)
    return grid, statistics.acceptance


def test_the_loop_gives_what_the_rounds_give():
    """Rows leave the batch as they end, and budgets shorten drafts: no token changes."""
    for method in ("eft", "conservative"):
        weights, options, drafting, k, _ = METHODS[method]
        models, sampler = tables(3, VOCAB, seed=1), Sampler(weights, options, draft=1, draft_options=drafting)
        mine, _ = outputs(models, sampler, k, 3000, 5)
        theirs, _ = many_outputs(models, sampler, k, 3000, 5)
        assert torch.equal(mine, theirs)


FAST = ("greedy draft",)


@pytest.mark.parametrize("method", slowly_but(FAST, METHODS))
def test_every_output(method):
    weights, options, drafting, k, calls = METHODS[method]
    named = isinstance(weights, Contrast)
    models = tables(2 if named else len(weights), VOCAB, seed=len(method))
    oracle = {name: value for name, value in options.items() if name != "conservative_top_p"}
    if "conservative_top_p" in options:
        oracle["conservative"] = ConservativeParams(options["conservative_top_p"])

    def next_probs(before, now):
        logits = [table[before, now][None] for table in models]
        mixed = (weights.prepare(logits), weights.weights()) if named else (logits, weights)
        return reference.distribution(*mixed, **oracle)[0].numpy()

    exact = enumerate_outputs(next_probs, PROMPT, VOCAB, LENGTH)
    assert abs(sum(exact.values()) - 1) < 1e-12
    sampler = Sampler(weights, options, draft=1, draft_options=drafting)
    codes = np.zeros((VOCAB + 1) ** LENGTH, dtype=int)
    places = torch.tensor([(VOCAB + 1) ** i for i in range(LENGTH)])
    for call in range(calls):
        grid, acceptance = many_outputs(models, sampler, k, ROWS, call)
        assert 0.2 < acceptance < 0.98
        codes += np.bincount(((grid + 1) * places).sum(dim=1).numpy(), minlength=len(codes))
    seen = {o: codes[sum((t + 1) * (VOCAB + 1) ** i for i, t in enumerate(o))] for o in exact}
    assert sum(seen.values()) == ROWS * calls, "an output that has no probability"
    observed, expected = np.array([[seen[o], p * ROWS * calls] for o, p in exact.items()]).T
    assert chi_square(observed, expected) > 1e-5
    # Whether the test would see an error: one in twenty (ten) of the commonest output given to the next.
    first, second = np.argsort(-expected)[:2]
    moved = observed[first] // 20 if calls > 1 else observed[first] // 10
    observed[first] -= moved
    observed[second] += moved
    assert chi_square(observed, expected) < 1e-5


def chi_square(observed, expected):
    rare = expected < 10
    if rare.any():
        observed, expected = (np.append(x[~rare], x[rare].sum()) for x in (observed, expected))
    return stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue
