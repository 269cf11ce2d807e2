"""A batch decoded by an engine, step by step, on a fake device of graphs if one is given."""

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.capture.device_loop import DeviceLoops
from eft_ext.decoding.capture.graphs import Graphs, bucket
from eft_ext.decoding.engine import Engine
from eft_ext.decoding.mixture import Mixture
from eft_ext.decoding.requests import Request
from eft_ext.decoding.sampler import Sampler
from eft_ext.methods import UpScale
from python_tests.helpers.fake_cuda_graph import RESTORED

SAMPLED = {"temperature": 1.2, "top_p": 0.95}


def decode(
    trio, batch, budgets, device=None, ends=(), capacity=0, lag=0, options=SAMPLED, beta=1.0, hear=None, **other
):
    rows = len(budgets)
    sampler = Sampler(Mixture(UpScale(beta), rows), options)
    how = {} if device is None else dict(bucket=bucket, parallel=device.parallel, launcher=lambda e: Graphs(e, device))
    how |= other
    engine = Engine([StaticCacheModel(model, capacity=capacity) for model in trio], sampler, list(ends), lag=lag, **how)
    return run(engine, batch, budgets, hear), engine


def run(engine, batch, budgets, hear=None):
    """The tokens of each row; `hear` is called with the engine and these after each step."""
    ids, mask = batch
    rows = len(budgets)
    requests = [Request(i, 5 + i, budget) for i, budget in enumerate(budgets)]
    engine.start(requests, [(ids[:rows], mask[:rows])] * 3)
    state = engine.state
    RESTORED[:] = [*state._all.values(), state.ring, state.tick, *(model.stored_lengths for model in engine.models)]
    tokens = [[] for _ in requests]
    for outputs in engine.run():
        RESTORED[-3:] = [model.stored_lengths for model in engine.models]
        for number, token, *_ in outputs:
            tokens[number].append(token)
        if hear is not None:
            hear(engine, tokens)
    return tokens


def looping(device):
    return dict(launcher=lambda engine: DeviceLoops(engine, device), ring=40)
