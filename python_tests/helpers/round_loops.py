"""Rounds of drafts by the engine, and by their reference, which reads each row's whole text at every pass."""

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.capture.graphs import Graphs, bucket
from eft_ext.decoding.mixture import Mixture
from eft_ext.decoding.model_facts import learned_positions
from eft_ext.decoding.requests import Request
from eft_ext.decoding.sampler import Sampler
from eft_ext.decoding.speculative.draft_length import Fixed
from eft_ext.decoding.speculative.engine import SpeculativeEngine
from eft_ext.methods import UpScale
from python_tests.helpers.fake_cuda_graph import RESTORED
from python_tests.helpers.plain_rounds import PlainRounds, PlainRow, method_of_row

GREEDY = {"temperature": 0.0}
SAMPLED = {"temperature": 1.2, "top_p": 0.95}
MILD = UpScale(0.3)
SEEDS = [5, 6, 7, 8]


def trio_of(model_of, family="llama"):
    return [model_of(family, 0, 32, 272), model_of(family, 1, 16), model_of(family, 2, 16)]


def schedule_of(k):
    return Fixed(k) if isinstance(k, int) else k


def plainly(trio, batch, budgets, k, options=SAMPLED, method=MILD, ends=(), draft_model=1):
    """The reference: tokens and sources of the rows, and statistics."""
    limit = min((x for model in trio if (x := learned_positions(model)) is not None), default=None)
    texts = [ids[keep.bool()].tolist() for ids, keep in zip(*batch, strict=True)]
    rows = [PlainRow(texts[i], SEEDS[i], budget, method_of_row(method, i)) for i, budget in enumerate(budgets)]
    rounds = PlainRounds(trio, options, eos_token_ids=ends, draft_model=draft_model, limit=limit)
    statistics = rounds.run(rows, schedule_of(k))
    return [row.tokens for row in rows], [row.sources for row in rows], statistics


def engine_of(
    trio, rows, k, options=SAMPLED, method=MILD, ends=(), draft_model=1, capacity=0, most=None, slots=None, **how
):
    mixture = Mixture(method, rows, slots=slots)
    width = min(model.config.vocab_size for model in trio)
    sampler = Sampler(mixture, options, draft_model=draft_model, vocab_size=width)
    models = [StaticCacheModel(model, capacity=capacity) for model in trio]
    most = most or (k if isinstance(k, int) else 16)
    return SpeculativeEngine(models, sampler, list(ends), schedule=schedule_of(k), max_draft_tokens=most, **how)


def decode(trio, batch, budgets, k, device=None, hear=None, **options):
    """The same by the engine, and the engine; `hear` is called with it and the tokens after each step."""
    if device is not None:
        options |= dict(bucket=bucket, parallel=device.parallel, launcher=lambda engine: Graphs(engine, device))
    rows = len(budgets)
    engine = engine_of(trio, rows, k, **options)
    requests = [Request(i, SEEDS[i], budget) for i, budget in enumerate(budgets)]
    engine.start(requests, [(batch[0][:rows], batch[1][:rows])] * len(trio))
    watch(engine)
    tokens, sources = [[] for _ in requests], [[] for _ in requests]
    for outputs in engine.run():
        watch(engine)
        for number, token, last, source in outputs:
            tokens[number].append(token)
            sources[number].append(source)
            assert last == (token in options.get("ends", ()) or len(tokens[number]) == budgets[number])
        if hear is not None:
            hear(engine, tokens)
    return tokens, sources, engine.statistics, engine


def watch(engine):
    """Tells the fake graphs what a step writes."""
    state = engine.state
    RESTORED[:] = [*state._all.values(), state.ring, state.tick, *(model.stored_lengths for model in engine.models)]
