"""Rounds of speculation captured as graphs: one for each number of rows, bucket and draft length."""

import pytest

from eft_ext.decoding.capture import traced_forward
from python_tests.helpers.fake_cuda_graph import FakeGraphDevice
from python_tests.helpers.round_loops import GREEDY, decode, plainly, trio_of
from python_tests.helpers.slow_params import slowly


@pytest.fixture
def captured(monkeypatch):
    """The model itself is captured on a GPU, not a recording of it."""
    monkeypatch.setattr(traced_forward, "unfit", lambda model: "is captured")


@pytest.mark.parametrize("lag", [4, *slowly(0)])
def test_a_round_is_one_graph(captured, llamas, ragged, lag):
    budgets, device = [60, 31, 48, 13], FakeGraphDevice()
    free = decode(llamas, ragged, budgets, 3)
    ends = {free[0][0][25], free[0][2][40]}
    expected = plainly(llamas, ragged, budgets, 3, ends=ends)
    got = decode(llamas, ragged, budgets, 3, device, ends=ends, lag=lag, capacity=100)
    assert got[:3] == expected
    assert got[3]._launch_step.reason is None
    shapes = {shape for shape in got[3]._launch_step._replays}
    assert {shape[-1] for shape in shapes} >= {3}, "a graph for each k"
    assert all(len(shape) == 1 + 3 + 1 for shape in shapes), "rows, what each model reads, k"
    assert device.captures == len(shapes)
    assert device.replays > device.captures + device.warm_ups


@pytest.mark.slow
def test_auto_goes_on_among_captured_lengths(captured, llamas, ragged):
    class Turns:
        """0, 2, 4, 2, 0, ..."""

        def __init__(self):
            self.ks, self.seen = [0, 2, 4, 2] * 40, []

        def draft_length(self, under_way=0):
            return self.ks.pop(0)

        def observe(self, k, decided, accepted, seconds, rows=1):
            assert seconds >= 0
            self.seen.append((k, decided, accepted))

    budgets, device = [50] * 4, FakeGraphDevice()
    expected = plainly(llamas, ragged, budgets, Turns(), options=GREEDY)
    turns = Turns()
    got = decode(llamas, ragged, budgets, turns, device, options=GREEDY, capacity=100, lag=2)
    assert got[0] == expected[0]
    assert {shape[-1] for shape in got[3]._launch_step._replays} == {0, 2, 4}
    assert sum(accepted for *_, accepted in turns.seen) == got[2].accepted
    assert sum(decided for _, decided, _ in turns.seen) == got[2].drafted


@pytest.mark.filterwarnings("ignore:the step is not captured")
def test_every_family_captured(captured, family, model_of, ragged):
    trio, budgets, device = trio_of(model_of, family), [40, 18, 40, 33], FakeGraphDevice()
    expected = plainly(trio, ragged, budgets, 4)
    got = decode(trio, ragged, budgets, 4, device, lag=1, capacity=100)
    assert got[:3] == expected
    if family == "falcon":  # as in test_graphs.py
        assert "data of the host" in got[3]._launch_step.reason
        return
    assert got[3]._launch_step.reason is None
    assert device.replays > 2
