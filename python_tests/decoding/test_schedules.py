"""Weights that are functions of the step, and parameters that are set meanwhile, in steps, rounds, graphs and loops."""

import pytest
import torch

from eft_ext.decoding import StaticCacheModel, mixture
from eft_ext.decoding.capture import traced_forward
from eft_ext.decoding.engine import Engine
from eft_ext.decoding.mixture import Mixture
from eft_ext.decoding.requests import Request
from eft_ext.decoding.sampler import Sampler
from eft_ext.methods import Conservative, Contrast, UpScale, Weighted
from python_tests.helpers import round_loops as rounds
from python_tests.helpers.fake_cuda_graph import FakeGraphDevice, FakeLoopDevice
from python_tests.helpers.slow_params import slowly, value_id
from python_tests.helpers.step_loops import decode, looping, run


@pytest.fixture(autouse=True)
def _plain_models(monkeypatch):
    """The model itself is captured on a GPU, not a recording of it."""
    monkeypatch.setattr(traced_forward, "unfit", lambda model: "is captured")


def rising(step):
    return 0.2 + 0.03 * step


def by_row(step):
    return [0.1 * row + 0.02 * step for row in range(4)]


@pytest.mark.parametrize("beta", [rising, by_row])
def test_functions_of_the_step_are_captured(llamas, ragged, beta):
    """Their table is read by graphs and loops on the device, as far as these run ahead of the host."""
    budgets = [40, 11, 25, 33]
    expected, _ = decode(llamas, ragged, budgets, beta=beta)
    assert expected != decode(llamas, ragged, budgets, beta=0.2)[0]
    device = FakeGraphDevice()
    got, engine = decode(llamas, ragged, budgets, device, beta=beta, lag=3, capacity=60)
    assert got == expected
    assert engine._launch_step.reason is None
    assert device.replays > 30
    device = FakeLoopDevice()
    assert decode(llamas, ragged, budgets, device, beta=beta, capacity=60, **looping(device))[0] == expected
    assert max(n for loop in device.loops for n in loop.launches) > 5


def test_captured_functions_whose_table_grows(llamas, ragged, monkeypatch):
    monkeypatch.setattr(mixture, "CAPACITY", 16)
    budgets, device = [60, 21, 60, 44], FakeGraphDevice()
    expected, _ = decode(llamas, ragged, budgets, beta=by_row)
    got, engine = decode(llamas, ragged, budgets, device, beta=by_row, lag=2, capacity=100)
    assert got == expected
    assert engine._launch_step.reason is None
    assert device.captures > 2, "what was captured read another table"


def set_at(length, beta):
    """Sets the first method's beta when row 0 has so many tokens."""

    def hear(engine, tokens):
        if len(tokens[0]) == length:
            engine.sampler.mixture.method.set(beta=beta)

    return hear


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("first", [0.2, rising], ids=value_id)
@pytest.mark.parametrize(
    "second", [1.5, torch.tensor([0.3, 2.0, 1.0, 0.0]), by_row], ids=["number", "rows", "function"]
)
def test_parameters_that_are_set_reach_captured_steps(llamas, ragged, first, second, lag):
    """The first step that is launched afterwards has them, whether what ran before was a graph or not."""
    budgets, device = [30, 30, 30, 30], FakeGraphDevice()
    turn = 12 + lag + 1

    def in_turns(step):
        value = second if step >= turn else first
        return value(step) if callable(value) else value

    expected, _ = decode(llamas, ragged, budgets, beta=in_turns)
    for run_on in (None, device):
        got, engine = decode(llamas, ragged, budgets, run_on, beta=first, hear=set_at(13, second), lag=lag)
        assert got == expected
        assert engine.sampler.mixture.changed
    assert engine._launch_step.reason is None
    assert device.captures == 2
    assert device.replays > 15


@pytest.mark.parametrize("second", [1.5, *slowly([0.3, 2.0, 1.0, 0.0], by_row)], ids=value_id)
def test_parameters_that_are_set_reach_loops_on_the_device(llamas, ragged, second):
    """Once the loop that is under way has ended; another one is built for them."""
    budgets, device, turns = [90] * 4, FakeLoopDevice(), []

    def hear(engine, tokens):
        if len(tokens[0]) == 25:
            engine.sampler.mixture.method.set(beta=second)
            turns.append(25 + len(engine._pending))

    got, _ = decode(llamas, ragged, budgets, device, beta=rising, hear=hear, capacity=120, **looping(device))

    def in_turns(step):
        value = second if step >= turns[0] else rising
        return value(step) if callable(value) else value

    assert got == decode(llamas, ragged, budgets, beta=in_turns)[0]
    assert 25 < turns[0] < 80
    assert any(loop.closed for loop in device.loops)
    assert not device.loops[-1].closed


@pytest.mark.parametrize(
    "betas", [(0.5, 0.5), (rising, lambda step: 1.0 / (1 + step)), ([0.1] * 4, [0.9, 0.3, 0.1, 0.0])]
)
def test_an_engine_that_starts_again_replays_its_graphs(llamas, ragged, betas, monkeypatch):
    """With another method's numbers in the memory that they read; also behind a table that has grown."""
    monkeypatch.setattr(mixture, "CAPACITY", 12)
    budgets, device = [20] * 4, FakeGraphDevice()
    first, second = betas
    _, engine = decode(llamas, ragged, budgets, device, beta=first, capacity=60)
    captures = device.captures
    engine.sampler.mixture.start(UpScale(second), 4)
    assert run(engine, ragged, budgets) == decode(llamas, ragged, budgets, beta=second)[0]
    assert device.captures == captures


SCHEDULES = {
    "function": UpScale(rising),
    "function by row": UpScale(by_row),
    "weights": Weighted({"a": 1.0, "b": rising, "c": lambda step: [-0.1, -0.2, -0.3, -0.4 - 0.01 * step]}),
    "nucleus": Conservative(lambda step: 0.9 - 0.01 * step),
}


@pytest.mark.parametrize("name", ["function by row", *slowly("function", "weights", "nucleus")])
def test_functions_of_the_step_with_drafts(llamas, ragged, name):
    """Each position of a round has its own step's weights, in captured rounds too."""
    budgets, method, device = [26, 12, 19, 30], SCHEDULES[name], FakeGraphDevice()
    expected = rounds.plainly(llamas, ragged, budgets, 4, method=method)
    assert expected[2].accepted > 3
    assert rounds.decode(llamas, ragged, budgets, 4, method=method, lag=2)[:3] == expected
    got = rounds.decode(llamas, ragged, budgets, 4, device, method=method, lag=1, capacity=100)
    assert got[:3] == expected
    assert got[3]._launch_step.reason is None
    assert device.replays > 2


@pytest.mark.parametrize(
    "method", [Contrast(rising, 0.1), *slowly(Contrast(0.4, 0.1), Contrast(0.4, lambda step: 0.2))]
)
def test_methods_that_exclude_tokens_with_drafts(llamas, ragged, method):
    pair, budgets, how = llamas[1:], [20, 15, 9, 20], dict(method=method, draft_model=0)
    expected = rounds.plainly(pair, ragged, budgets, 3, **how)
    for lag in (0, 2):
        assert rounds.decode(pair, ragged, budgets, 3, lag=lag, **how)[:3] == expected


@pytest.mark.parametrize("first", [0.2, *slowly(rising)], ids=value_id)
@pytest.mark.parametrize("second", [by_row, *slowly(1.5, [0.3, 2.0, 1.0, 0.0])], ids=value_id)
def test_parameters_that_are_set_between_rounds(llamas, ragged, first, second):
    """Rounds of graphs take them up where those without do, and draw other tokens from there on."""
    budgets, device = [60] * 4, FakeGraphDevice()
    seen = {}  # lengths when it was set, by engine

    def hear(engine, tokens):
        if len(tokens[0]) >= 30 and engine not in seen:
            engine.sampler.mixture.method.set(beta=second)
            seen[engine] = [len(own) for own in tokens]

    whole = rounds.decode(llamas, ragged, budgets, 3, method=UpScale(first))
    expected = rounds.decode(llamas, ragged, budgets, 3, method=UpScale(first), hear=hear)
    got = rounds.decode(llamas, ragged, budgets, 3, device, method=UpScale(first), hear=hear, capacity=100)
    assert got[:3] == expected[:3]
    assert got[3]._launch_step.reason is None
    assert device.captures >= 2, "before and behind"
    assert expected[0] != whole[0]
    assert seen[expected[3]] == seen[got[3]]
    for own, before, n in zip(expected[0], whole[0], seen[got[3]], strict=True):
        assert own[:n] == before[:n]


class Asked:
    """A function of the step that says which it was asked for."""

    def __init__(self, last):
        self.steps, self.last = [], last

    def __call__(self, step):
        assert step <= self.last, "no row gets so far"
        self.steps.append(step)
        return 1.0 - 0.01 * step


@pytest.mark.parametrize("lag", [0, 3])
def test_functions_are_asked_for_each_step_once(llamas, ragged, lag):
    """In order, for none beyond what has been launched, and for none that nobody draws."""
    asked = Asked(last=19)
    engine = Engine([StaticCacheModel(model) for model in llamas], Sampler(Mixture(UpScale(asked), 4), {}), [], lag=lag)
    engine.start([Request(i, i, most) for i, most in enumerate((20, 9, 14, 20))], [ragged] * 3)
    for step, _ in enumerate(engine.run()):
        assert asked.steps == list(range(min(step + 1 + lag, 20)))
    assert asked.steps == list(range(20))


@pytest.mark.parametrize("lag", [0, 2])
def test_functions_are_asked_for_each_step_once_with_drafts(llamas, ragged, lag):
    asked, budgets = Asked(last=19), [20, 9, 14, 20]

    def hear(engine, tokens):
        launched = max(map(len, tokens)) + 4 * (1 + lag)
        assert asked.steps == list(range(len(asked.steps)))
        assert len(asked.steps) <= launched

    rounds.decode(llamas, ragged, budgets, 3, method=UpScale(asked), lag=lag, hear=hear)
    assert asked.steps == list(range(20))


def test_idle_rows_may_be_further_than_the_table(llamas, ragged, monkeypatch):
    """A row that ended late stands by while a function of the step begins with a row that is not far yet."""
    monkeypatch.setattr(mixture, "CAPACITY", 4)
    method = UpScale(0.5)
    mixed = Mixture(method, 4, slots=3)
    engine = Engine([StaticCacheModel(model) for model in llamas], Sampler(mixed, {}), [], bucket=lambda rows: 3)
    engine.start([Request(i, i, 30) for i in range(3)], [(ragged[0][:3], ragged[1][:3])] * 3)
    tokens = []
    for outputs in engine.run():
        if engine.free == 3 and not tokens:
            engine.admit([Request(3, 3, 12)], [(ragged[0][3:], ragged[1][3:])] * 3)
        tokens += [output.token for output in outputs if output.request == 3]
        if len(tokens) == 5:
            method.set(beta=rising)
    assert len(tokens) == 12
