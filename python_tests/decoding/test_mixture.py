"""A method resolved for requests and slots is, row by row and step by step, what a plain loop over it says."""

import pytest
import torch

from eft_ext.decoding import mixture
from eft_ext.decoding.mixture import Mixture
from eft_ext.methods import Amplify, Conservative, Contrast, Realign, UpScale, Weighted
from python_tests.helpers.plain_rounds import method_of_row
from python_tests.helpers.slow_params import value_id

REQUESTS = 5
BY_ROW = [0.1, 0.7, 1.3, 0.4, 2.0]


def rising(step):
    return 0.1 + 0.03 * step


def by_row(step):
    return [weight - 0.02 * step for weight in BY_ROW]


def in_turns(step):
    """A number at first, then one for each row, then a number again."""
    return by_row(step) if step in range(3, 9) else rising(step)


class Inverse(Contrast):
    """A method of a user's that has the same numbers and excludes other tokens."""

    def prepare(self, logits, vocab_size=None):
        return [logits[0], super().prepare(logits[::-1])[0]]


METHODS = {
    "number": UpScale(0.5),
    "numbers by row": UpScale(BY_ROW),
    "function": UpScale(rising),
    "function by row": UpScale(by_row),
    "function in turns": UpScale(in_turns),
    "two of a kind": Weighted({"a": 1.0, "b": rising, "c": BY_ROW}),
    "nucleus": Conservative(lambda step: 0.5 + 0.01 * step, method=Amplify(BY_ROW)),
    "nucleus by row": Conservative([0.5, 0.6, 0.7, 0.8, 0.9], outside="drop"),
    "share": Realign(rising),
    "excluding": Contrast(0.4, 0.1),
    "excluding by row": Contrast(BY_ROW, [0.1, 0.2, 0.3, 0.4, 0.5]),
    "excluding by step": Contrast(rising, lambda step: [0.1 + 0.01 * step] * REQUESTS),
}


def check(made, method, requests, steps, slots=None):
    """Every row has its request's own weights, nucleus and logits at its own step."""
    logits = [torch.randn(len(requests), 7, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    logits = logits[: len(method.models)]
    found = made.at(torch.tensor(steps), None if slots is None else torch.tensor(slots))
    prepared = found.prepare(logits)
    for place, (request, step) in enumerate(zip(requests, steps, strict=True)):
        own = method_of_row(method, request).at(step)
        wanted, got = own.weights(), [_of(weight, place) for weight in found.weights()]
        assert got == pytest.approx([float(weight) for weight in wanted], rel=1e-6)
        nucleus, settings = own.conservative(), found.conservative()
        assert (nucleus is None) == (settings is None)
        if nucleus is not None:
            assert _of(settings.top_p, place) == pytest.approx(float(nucleus.top_p), rel=1e-6)
            assert settings[1:] == nucleus[1:]
        for mine, theirs in zip(prepared, own.prepare([x[place : place + 1] for x in logits]), strict=True):
            assert torch.equal(mine[place], theirs[0])


def _of(value, place):
    return float(value[place]) if isinstance(value, torch.Tensor) else value


@pytest.fixture
def small(monkeypatch):
    """Tables grow early."""
    monkeypatch.setattr(mixture, "CAPACITY", 4)


@pytest.mark.parametrize("name", METHODS)
def test_rows_at_their_own_steps(name, small):
    method = METHODS[name]
    made = Mixture(method, REQUESTS)
    made.admit(range(REQUESTS), range(REQUESTS))
    for through in (0, 1, 2, 5, 6, 20, 21, 40):
        assert made.sync(through) is False
        for steps in ([through] * REQUESTS, [0, through // 2, through, through // 3, 1 if through else 0]):
            check(made, method, range(REQUESTS), steps)
            check(made, method, range(3), steps[:3])
    assert made.is_scheduled == ("step" in name or "function" in name or name in ("two of a kind", "nucleus", "share"))
    assert made.excludes == name.startswith("excluding")


@pytest.mark.parametrize("name", METHODS)
def test_slots_that_begin_move_and_begin_again(name, small):
    method, held = METHODS[name], [0, 1, 2]
    made = Mixture(method, REQUESTS, slots=3)
    made.admit([0, 1, 2], held)
    made.sync(4)
    check(made, method, held, [4, 2, 3])
    made.admit([1], [3])  # begins at step 0 while the others go on
    made.sync(5)
    check(made, method, [0, 3, 2], [5, 0, 4])
    made.move([2], [0])
    assert made.requests(2) == [2, 3]
    check(made, method, [2, 3], [5, 1])
    made.admit([2, 0], [4, 1])
    made.sync(11)
    check(made, method, [1, 3, 4], [0, 11, 0])
    check(made, method, [4, 1], [7, 3], slots=[2, 0])


@pytest.mark.parametrize("name", ["function", "function by row", "excluding by row", "nucleus"])
def test_several_steps_of_each_row(name):
    method = METHODS[name]
    made = Mixture(method, REQUESTS)
    made.admit(range(REQUESTS), range(REQUESTS))
    made.sync(12)
    steps = torch.tensor([3, 0, 5, 9, 1])[:, None] + torch.arange(4)
    found = made.at(steps)
    for j in range(4):
        alone = made.at(steps[:, j].contiguous())
        for whole, one in zip(found.numbers, alone.numbers, strict=True):
            assert not isinstance(whole, torch.Tensor) or torch.equal(whole[:, j], one)
            assert isinstance(whole, torch.Tensor) or whole == one


@pytest.mark.parametrize("other", [0.9, BY_ROW, rising, by_row, in_turns], ids=value_id)
@pytest.mark.parametrize("first", [0.5, list(reversed(BY_ROW)), lambda step: 2.0 - step / 50, in_turns], ids=value_id)
def test_parameters_that_are_set_in_between(first, other, small):
    """They count from the next `sync` on, of whatever kind they are and were."""
    method = UpScale(first)
    made = Mixture(method, REQUESTS)
    made.admit(range(REQUESTS), range(REQUESTS))
    made.sync(6)
    check(made, method, range(REQUESTS), [6, 1, 2, 3, 4])
    before = UpScale(first)
    method.set(beta=other)
    check(made, before, range(REQUESTS), [6, 1, 2, 3, 4])
    assert not made.changed
    assert made.sync(7) is True
    assert made.changed
    check(made, method, range(REQUESTS), [7, 2, 3, 4, 5])
    made.move([4], [0])
    assert made.sync(8) is False
    check(made, method, [4, 1, 2, 3], [6, 3, 4, 5])


SAME = {
    "number": (UpScale(0.5), UpScale(0.5)),
    "by row": (UpScale(BY_ROW), UpScale(list(reversed(BY_ROW)))),
    "function": (UpScale(rising), UpScale(lambda step: 1.0 / (1 + step))),
    "function by row": (UpScale(by_row), UpScale(lambda step: BY_ROW)),
    "excluding by step": (Contrast(rising, 0.1), Contrast(0.5, lambda step: 0.3)),
    "nucleus": (Conservative(rising), Conservative(lambda step: 0.9)),
}


@pytest.mark.parametrize("name", SAME)
def test_another_method_finds_its_place(name):
    """An engine that starts again has the new numbers where a captured step reads them."""
    first, second = SAME[name]
    made = Mixture(first, REQUESTS)
    made.admit(range(REQUESTS), range(REQUESTS))
    made.sync(10)
    before = made.addresses()
    assert made.scalars == Mixture(second, REQUESTS).scalars
    made.start(second, REQUESTS)
    made.admit(range(REQUESTS), range(REQUESTS))
    made.sync(10)
    assert made.addresses() == before
    check(made, second, range(REQUESTS), [10, 3, 0, 7, 9])


def test_other_numbers_are_another_key():
    keys = [Mixture(method, REQUESTS).scalars for method in (UpScale(0.5), UpScale(0.6), UpScale(BY_ROW))]
    keys += [Mixture(method, REQUESTS).scalars for method in (UpScale(rising), Contrast(rising), Conservative(rising))]
    others = Conservative(rising, outside="drop"), Conservative(rising, "large"), Inverse(rising), Inverse(0.5)
    keys += [Mixture(method, REQUESTS).scalars for method in (*others, Contrast(0.5))]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("second", [3, 8])
@pytest.mark.parametrize("kind", ["by row", "for all"])
def test_another_number_of_requests(kind, second):
    """An engine of few slots, which starts again with fewer or more requests."""
    made = Mixture(UpScale(by_row), REQUESTS, slots=2)
    made.admit([0, 1], [3, 4])
    made.sync(5)
    method = UpScale(lambda step: [0.1 * step + i for i in range(second)] if kind == "by row" else rising(step))
    made.start(method, second)
    made.admit([0, 1], [second - 1, 0])
    made.sync(5)
    check(made, method, [second - 1, 0], [5, 2])


def test_fewer_requests_with_weights_by_row():
    """Slots still hold the last ones of the many before."""
    made = Mixture(UpScale(BY_ROW), REQUESTS, slots=2)
    made.admit([0, 1], [4, 2])
    method = UpScale([0.3, 0.6])
    made.start(method, 2)
    made.admit([0, 1], [1, 0])
    check(made, method, [1, 0], [0, 3])


def test_copies_of_prompts():
    made = Mixture(UpScale([0.1, 0.9]), 4, copies=2)
    made.admit(range(4), range(4))
    assert made.at(torch.zeros(4, dtype=torch.int64)).numbers[1].tolist() == pytest.approx([0.1, 0.1, 0.9, 0.9])
    scheduled = Mixture(UpScale(lambda step: [0.1, 0.9 + step]), 4, copies=2)
    scheduled.admit(range(4), range(4))
    scheduled.sync(3)
    assert scheduled.at(torch.tensor([0, 3, 0, 3])).numbers[1].tolist() == pytest.approx([0.1, 0.1, 0.9, 3.9])


@pytest.mark.parametrize("value", [[0.1, 0.2], lambda step: [0.1, 0.2], lambda step: 0.5 if step < 2 else [0.1, 0.2]])
def test_a_wrong_number_of_values(value):
    with pytest.raises(ValueError, match=r"^beta: expected a number or 4 values, one per row, got shape \[2\]"):
        Mixture(UpScale(value), 4).sync(3)
