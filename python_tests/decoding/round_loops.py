"""The engine's rounds and their reference, the loop with Python between rounds."""

import torch
from test_speculate import collect

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.capture.graphs import Graphs, bucket
from eft_ext.decoding.requests import Request
from eft_ext.decoding.speculative.draft_length import Fixed
from eft_ext.decoding.speculative.engine import SpeculativeEngine
from eft_ext.decoding.speculative.sampler import Sampler
from eft_ext.decoding.speculative.speculate import speculate
from eft_ext.decoding.speculative.token_source import Statistics
from eft_ext.hf.generation.draft_draw import DraftingDraw
from eft_ext.hf.generation.mixture import Mixture
from eft_ext.methods import UpScale
from python_tests.decoding.fake_cuda_graph import RESTORED

GREEDY = {"temperature": 0.0}
SAMPLED = {"temperature": 1.2, "top_p": 0.95}
MILD = UpScale(0.3)
SEEDS = [5, 6, 7, 8]


def trio_of(model_of, family="llama"):
    return [model_of(family, 0, 32, 272), model_of(family, 1, 16), model_of(family, 2, 16)]


def eager(trio, batch, budgets, k, options=SAMPLED, method=MILD, ends=(), draft=1):
    """The reference: `speculate`, one round after another."""
    mixture, rows = Mixture(method).per_row(len(budgets), 1), len(budgets)
    own = dict(options)
    if mixture.conservative is not None:
        own["conservative_top_p"] = mixture.conservative.top_p
    statistics = Statistics()
    rounds = speculate(
        [StaticCacheModel(model) for model in trio],
        [(batch[0][:rows], batch[1][:rows])] * len(trio),
        Sampler(list(mixture.weights), own, draft=draft),
        Fixed(k) if isinstance(k, int) else k,
        seeds=torch.tensor(SEEDS[:rows]),
        budgets=budgets,
        ends=list(ends),
        room=min((f for f in (StaticCacheModel(model).limit for model in trio) if f is not None), default=None),
        statistics=statistics,
    )
    tokens, marks = collect(rounds, rows)
    return tokens, marks, statistics


def engine_of(trio, rows, k, options=SAMPLED, method=MILD, ends=(), draft=1, capacity=0, most=None, **how):
    mixture = Mixture(method).per_row(rows, 1)
    draw = DraftingDraw(mixture, options, rows, torch.device("cpu"), draft=draft, width=264)
    feeders = [StaticCacheModel(model, capacity=capacity) for model in trio]
    schedule, most = (Fixed(k), most or k) if isinstance(k, int) else (k, 16)
    return SpeculativeEngine(feeders, draw, list(ends), schedule=schedule, proposer=draft, most=most, **how)


def decode(trio, batch, budgets, k, device=None, **options):
    if device is not None:
        options |= dict(bucket=bucket, parallel=device.parallel, stepper=lambda engine: Graphs(engine, device))
    rows = len(budgets)
    engine = engine_of(trio, rows, k, **options)
    jobs = [Request(i, SEEDS[i], budget) for i, budget in enumerate(budgets)]
    engine.start(jobs, [(batch[0][:rows], batch[1][:rows])] * len(trio))
    watch(engine)
    tokens, marks = [[] for _ in jobs], [[] for _ in jobs]
    for news in engine.run():
        watch(engine)
        for job, token, last, mark in news:
            tokens[job].append(token)
            marks[job].append(mark)
            assert last == (token in options.get("ends", ()) or len(tokens[job]) == budgets[job])
    return tokens, marks, engine.statistics, engine


def watch(engine):
    state = engine.state
    RESTORED[:] = [*state._all.values(), state.ring, state.tick, *(feeder.stored_lengths for feeder in engine.feeders)]
