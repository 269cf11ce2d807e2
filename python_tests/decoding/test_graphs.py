"""Capture, tested with a stand-in that replays recorded operators: the tokens are those of the plain step."""

import pytest
import torch

from eft_ext.decoding.capture import traced_forward
from eft_ext.decoding.capture.graphs import bucket
from python_tests.helpers.fake_cuda_graph import RESTORED, FakeGraphDevice, FakeLoopDevice
from python_tests.helpers.step_loops import decode, looping


@pytest.fixture(autouse=True)
def _plain_models(monkeypatch):
    """The model itself is captured on a GPU, not a recording of it."""
    monkeypatch.setattr(traced_forward, "unfit", lambda model: "is captured")


@pytest.fixture
def trio(model_of, family):
    return [model_of(family, 0, 32, 272), model_of(family, 1, 16), model_of(family, 2, 16)]


@pytest.fixture
def llamas(model_of):
    return [model_of("llama", 0, 32, 272), model_of("llama", 1, 16), model_of("llama", 2, 16)]


@pytest.mark.filterwarnings("ignore:the step is not captured")
def test_replays_draw_the_tokens_of_the_plain_step(family, trio, ragged):
    budgets, device = [20, 9, 20, 14], FakeGraphDevice()
    expected, _ = decode(trio, ragged, budgets)
    got, engine = decode(trio, ragged, budgets, device)
    assert got == expected
    if family == "falcon":  # its multi-query form indexes with a list, which is copied from the host
        assert "data of the host" in engine._launch_step.reason
        return
    assert engine._launch_step.reason is None
    assert device.captures == 2, "a batch of four, and of two"
    assert device.warm_ups == 4
    assert device.replays == 19 - 4
    assert device.forks == 4 + 2, "the models of a step may run at once"


@pytest.mark.slow
@pytest.mark.parametrize("lag", [5, 1])
def test_running_ahead_of_the_host(llamas, ragged, lag):
    budgets = [30, 11, 25, 3]
    free, _ = decode(llamas, ragged, budgets)
    ends = [free[0][7], free[2][12]]
    expected, _ = decode(llamas, ragged, budgets, ends=ends)
    betas = torch.tensor([0.2, 0.8, 1.0, 1.4])
    assert decode(llamas, ragged, budgets, FakeGraphDevice(), ends=ends, lag=lag)[0] == expected
    expected, _ = decode(llamas, ragged, budgets, ends=ends, beta=betas)
    assert decode(llamas, ragged, budgets, FakeGraphDevice(), ends=ends, lag=lag, beta=betas)[0] == expected


@pytest.mark.slow
def test_a_graph_for_each_bound_and_new_ones_when_storage_grows(llamas, ragged):
    budgets = [140, 140, 140, 140]
    expected, _ = decode(llamas, ragged, budgets)
    device = FakeGraphDevice()
    assert decode(llamas, ragged, budgets, device, capacity=200)[0] == expected
    assert device.captures == 3, "up to 64, 128 and 192 slots"
    device = FakeGraphDevice()
    got, engine = decode(llamas, ragged, budgets, device)
    assert got == expected
    assert device.captures == 3, "storage grew at 64 and at 128"
    assert len(engine._launch_step._replays) == 1, "what was captured before is gone"


def test_what_cannot_be_captured_runs_as_it_is(build, llamas, ragged):
    """A model that reads a value on the host."""
    odd = build("llama", 1, 16)
    inner = odd.model.layers[0].mlp.forward
    odd.model.layers[0].mlp.forward = lambda x: inner(x) if x.sum().item() != 0 else x
    trio = [llamas[0], odd, llamas[2]]
    expected, _ = decode(trio, ragged, [9] * 4)
    with pytest.warns(UserWarning, match=r"^the step is not captured, so it runs slower: RuntimeError: item"):
        got, engine = decode(trio, ragged, [9] * 4, FakeGraphDevice())
    assert got == expected
    assert "reads a value on the host" in engine._launch_step.reason


def test_the_stand_in_catches_what_a_graph_would_freeze():
    device, x = FakeGraphDevice(), torch.ones(3)
    count = [0]

    def step():
        count[0] += 1
        x.add_(count[0])

    RESTORED[:] = [x]
    replay = device.capture(step)
    assert x.tolist() == [1.0] * 3, "a capture computes nothing"
    replay()
    replay()
    assert x.tolist() == [3.0] * 3, "the host's number is frozen"
    for bad in (lambda: torch.tensor([1.0]), lambda: x.sum().item(), lambda: x[x > 0], lambda: float(x[0])):
        with pytest.raises(RuntimeError, match=r"host"):
            device.capture(bad)


PLANTED = {
    "a tensor of the host's numbers": lambda x, kept: torch.tensor([1.0]),
    "a number read": lambda x, kept: x.sum().item(),
    "a condition": lambda x, kept: x.add_(1) if x[0] > 0 else None,
    "a mask": lambda x, kept: x[x > 0],
    "a mask written": lambda x, kept: x.__setitem__(x > 0, 2.0),
    "places that are not zero": lambda x, kept: x.nonzero(),
    "a copy for the host": lambda x, kept: x.cpu(),
    "a list": lambda x, kept: x.tolist(),
    "an array": lambda x, kept: x.numpy(),
    "a length from values": lambda x, kept: x.repeat_interleave(x.long()),
    "a comparison": lambda x, kept: torch.equal(x, x + 1),
    "storage that grows": lambda x, kept: x.resize_(100),
    "an output that does not fit": lambda x, kept: torch.add(x[:1].expand(50), 1, out=kept[0]),
    "a result that is kept": lambda x, kept: kept.append(x + 1),
    "a view of it": lambda x, kept: kept.append((x + 1)[1:]),
    "a result in the place of what is captured": lambda x, kept: kept.__setitem__(0, kept[0] + 1),
}


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("fault", PLANTED)
def test_the_stand_in_catches_planted_faults(fault):
    x, kept = torch.ones(3), [torch.zeros(2)]
    RESTORED[:] = []
    with pytest.raises((RuntimeError, AssertionError), match=r"host|in a capture|held outside"):
        FakeGraphDevice().capture(lambda: PLANTED[fault](x, kept))()


def test_what_is_no_fault():
    """Memory of the graph's own, writing into what there was, and views of that."""
    x, kept = torch.ones(3), [torch.zeros(3)]

    def step():
        kept[0].copy_((x * 2).masked_fill(x + torch.arange(3) <= 2, 0).cumsum(0))
        kept.append(x[1:])
        x.add_(1)

    RESTORED[:] = [x, kept[0]]
    replay = FakeGraphDevice().capture(step)
    replay()
    assert kept[0].tolist() == [0.0, 0.0, 2.0]
    replay()
    assert kept[0].tolist() == [0.0, 4.0, 8.0]


def test_buckets_of_rows():
    assert [bucket(n) for n in (1, 2, 3, 4, 5, 8, 9, 16, 17)] == [1, 2, 4, 4, 8, 8, 16, 16, 24]


def test_a_loop_on_the_device(llamas, ragged):
    """Many steps a launch; it ends by itself when no row is active, and for a new bound or batch."""
    budgets = [140, 60, 100, 20]
    free, _ = decode(llamas, ragged, budgets)
    ends = [free[0][75], free[2][30]]
    expected, _ = decode(llamas, ragged, budgets, ends=ends)
    device = FakeLoopDevice()
    assert decode(llamas, ragged, budgets, device, ends=ends, capacity=200, **looping(device))[0] == expected
    launches = [n for loop in device.loops for n in loop.launches]
    assert max(launches) > 20
    assert device.replays > 2 * len(launches)


@pytest.mark.slow
def test_without_loops_the_host_launches_each_step(llamas, ragged):
    budgets, device = [12, 30, 7, 20], FakeLoopDevice(fails=True)
    expected, _ = decode(llamas, ragged, budgets)
    with pytest.warns(UserWarning, match=r"^no loop on the device, the host launches each step: NotImpl") as said:
        got, engine = decode(llamas, ragged, budgets, device, **looping(device))
    assert len(said) == 1
    assert got == expected
    assert device.replays > 10
    assert "CUDA 12.2" in engine._launch_step.loop_reason


@pytest.mark.slow
def test_loops_go_when_storage_grows(llamas, ragged):
    budgets, device = [140] * 4, FakeLoopDevice()
    expected, _ = decode(llamas, ragged, budgets)
    assert decode(llamas, ragged, budgets, device, **looping(device))[0] == expected
    assert [loop.closed for loop in device.loops] == [True, True, False]


def test_loops_need_a_cuda_build_and_driver():
    """The binding is there either way, and says what is missing."""
    from eft_ext.ops.backends import native_loop

    if native_loop.while_supported():
        pytest.skip("there are WHILE nodes here")
    advance = native_loop.prepare_advance(torch.device("cpu"), [0] * 8, (1, 1), 0, [])
    with pytest.raises((NotImplementedError, RuntimeError), match=r"cuda|loop"):
        native_loop.WhileLoop(advance, 1, 0)
