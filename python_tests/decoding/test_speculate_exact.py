"""Every output of at most four tokens, enumerated: a million speculated generations have its distribution."""

import numpy as np
import pytest
import torch
from scipy import stats

from eft_ext.decoding.mixture import Mixture
from eft_ext.decoding.requests import Request
from eft_ext.decoding.sampler import Sampler
from eft_ext.decoding.speculative.draft_length import Fixed
from eft_ext.decoding.speculative.engine import SpeculativeEngine
from eft_ext.decoding.speculative.state import HEAD
from eft_ext.methods import Conservative, Contrast, Weighted
from eft_ext.ops import reference
from python_tests.helpers.slow_params import slowly_but
from python_tests.helpers.tables import END, TableModel, enumerate_outputs, tables

VOCAB, LENGTH, ROWS = 5, 4, 250_000
PROMPT = (2, 3)


def weighted(*weights):
    return Weighted({f"model {i}": weight for i, weight in enumerate(weights)})


# Method, options, options of the draft model, k, calls of ROWS generations.
METHODS = {
    "eft": (weighted(1.0, 1.0, -1.0), {}, {}, 3, 4),
    "amplified, filtered": (weighted(1.5, 1.0, -1.5), {"temperature": 0.8, "top_p": 0.9}, {}, 2, 4),
    "contrastive pair, own draft filters": (
        weighted(1.4, -0.4), {"top_k": 4}, {"temperature": 1.3, "top_k": 3}, 3, 4,
    ),
    "two behaviours": (weighted(1.0, 0.3, 0.7, -1.0), {"min_p": 0.05}, {}, 1, 1),
    "conservative": (Conservative(0.7), {}, {}, 4, 1),
    "contrast, which excludes tokens": (Contrast(0.4, 0.1), {}, {}, 3, 4),
    "greedy draft": (weighted(1.0, 0.6, -0.6), {}, {"temperature": 0.0}, 2, 1),
    "functions of the step": (weighted(1.0, lambda step: 1.0 - step / 4, lambda step: step / 4 - 1.0), {}, {}, 3, 4),
}  # fmt: skip


def engine_of(models, method, options, drafting, k, rows, seed, capacity):
    sampler = Sampler(Mixture(method, rows), options, draft_model=1, draft_options=drafting, vocab_size=VOCAB)
    own = [TableModel(table, capacity=capacity) for table in models]
    engine = SpeculativeEngine(own, sampler, [END], schedule=Fixed(k), max_draft_tokens=k)
    prompt = torch.tensor([PROMPT]).expand(rows, 2)
    requests = [Request(i, seed * rows + i, LENGTH) for i in range(rows)]
    engine.start(requests, [(prompt, None)] * len(models))
    return engine


@torch.inference_mode()
def many_outputs(models, method, options, drafting, k, rows, seed):
    """Outputs [rows, LENGTH], -1 behind their end, and the acceptance rate: steps of the engine, read as tensors."""
    engine = engine_of(models, method, options, drafting, k, rows, seed, capacity=2 + LENGTH + 2 * k + 1)
    state, grid, done = engine.state, torch.full((rows, LENGTH + k + 1), -1), torch.zeros(rows, dtype=torch.int64)
    drafted = accepted = 0
    while True:
        entry = state.ring[(state.tick - 1) % len(state.ring)][0]
        count, good, decided, *_ = entry.T
        new = entry[:, HEAD:]
        assert (new[count > 0, count[count > 0] - 1] >= 0).all(), "an invalid row"
        offsets = torch.arange(new.shape[1])
        places = (done[:, None] + offsets).clamp(max=LENGTH + k)
        grid.scatter_(1, places, torch.where(offsets < count[:, None], new, grid.gather(1, places)))
        done += count
        on = count > 0
        drafted += int((torch.minimum(good + 1, decided) * on).sum())
        accepted += int((good * on).sum())
        if not state.active.any():
            return grid[:, :LENGTH], accepted / drafted
        engine._drafts = k
        for model in engine.models:
            model.set_max_length(int(model.lengths.max()) + k + 1)
        engine.sampler.sync(LENGTH + k)
        engine.step()


def outputs(models, method, options, drafting, k, rows, seed):
    """The same from `run`."""
    engine = engine_of(models, method, options, drafting, k, rows, seed, capacity=2 + LENGTH + k + 1)
    grid = torch.full((rows, LENGTH), -1)
    new = [[] for _ in range(rows)]
    for found in engine.run():
        for row, token, *_ in found:
            new[row].append(token)
    for row, tokens in enumerate(new):
        grid[row, : len(tokens)] = torch.tensor(tokens)
    return grid, engine.statistics.acceptance


def test_the_loop_gives_what_the_rounds_give():
    """Rows leave the batch as they end, and budgets shorten drafts: no token changes."""
    for name in ("eft", "conservative", "functions of the step"):
        method, options, drafting, k, _ = METHODS[name]
        models = tables(3, VOCAB, seed=1)
        mine, _ = outputs(models, method, options, drafting, k, 3000, 5)
        theirs, _ = many_outputs(models, method, options, drafting, k, 3000, 5)
        assert torch.equal(mine, theirs)


FAST = ("greedy draft",)


@pytest.mark.parametrize("name", slowly_but(FAST, METHODS))
def test_every_output(name):
    method, options, drafting, k, calls = METHODS[name]
    models = tables(len(method.models), VOCAB, seed=len(name))

    def next_probs(before, now, step):
        logits, at = [table[before, now][None] for table in models], method.at(step)
        mixed = at.prepare(logits), at.weights()
        return reference.distribution(*mixed, conservative=at.conservative(), **options)[0].numpy()

    exact = enumerate_outputs(next_probs, PROMPT, VOCAB, LENGTH)
    assert abs(sum(exact.values()) - 1) < 1e-12
    codes = np.zeros((VOCAB + 1) ** LENGTH, dtype=int)
    places = torch.tensor([(VOCAB + 1) ** i for i in range(LENGTH)])
    for call in range(calls):
        grid, acceptance = many_outputs(models, method, options, drafting, k, ROWS, call)
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
