"""`Adaptive` against the best fixed number of drafts and against none, on rounds whose true times are given."""

import sys
from statistics import mean
from threading import Thread

import pytest

from eft_ext.decoding.speculative.costs import CHOICES, Costs, estimated
from eft_ext.decoding.speculative.draft_length import Adaptive
from python_tests.helpers.draft_rounds import bent, best_rate, generation, linear

LAWS = {"linear": linear, "bent": bent}
SEEDS = 30


def kept_of(times, acceptance):
    """The entry of a process that has drafted at most eight."""
    seconds = {str(k): times[k] for k in (0, 1, 2, 4, 8)}
    return {"seconds": seconds, "acceptance": acceptance, "decided": 30.0, "patience": 8}


def measured(schedule_of, times, acceptance):
    """The time of 64, 128 and 512 tokens against none, and the rate of tokens 64 to 320 against the best fixed k's."""
    clocks = [generation(schedule_of(), times, acceptance, 512, seed) for seed in range(SEEDS)]
    whole = [mean(clock[n - 1] for clock in clocks) / (n * times[0]) for n in (64, 128, 512)]
    rate = 256 / mean(clock[319] - clock[63] for clock in clocks)
    return max(whole), rate / best_rate(times, acceptance)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1, 3, 9, 30])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("start", ["nothing known", "sizes known", "kept", "kept, wrong"])
def test_within_a_tenth_of_the_best_and_never_slower_than_none(law, ratio, start):
    times, shape = LAWS[law](ratio), estimated(1.0, (ratio, 1.0))
    for tenths in range(11):
        acceptance = tenths / 10
        schedule_of = {
            "nothing known": Adaptive,
            "sizes known": lambda: Adaptive(shape),
            "kept": lambda acceptance=acceptance: Adaptive(shape, kept_of(times, acceptance)),
            "kept, wrong": lambda: Adaptive(shape, kept_of(times, 0.95)),
        }[start]
        loss, rate = measured(schedule_of, times, acceptance)
        assert loss < 1.03, (acceptance, "slower than without drafts")
        assert rate > 0.9, (acceptance, rate, "far from the best fixed number of drafts")


def test_where_drafts_cannot_pay_there_are_none():
    """One model alone: a round's drafts cost what its tokens do."""
    times, told = [1.0 * (2 * k + 1) for k in range(17)], []
    schedule = Adaptive({k: times[k] for k in CHOICES})
    heard = schedule.observe
    schedule.observe = lambda k, *rest: (told.append(k), heard(k, *rest))
    generation(schedule, times, 1.0, 500, seed=1)
    assert set(told) == {0}


def test_rounds_under_way_are_counted():
    """A host that reads late: all rounds that it has launched may come to nothing."""
    schedule = Adaptive(estimated(1.0, (3.0, 1.0)), kept_of(linear(3), 0.9))
    first = schedule.draft_length()
    assert first > 0
    asked = [schedule.draft_length(n) for n in range(5)]
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] == 0, "the account would not bear five rounds in vain"


@pytest.mark.parametrize("slow", [0, 1])
def test_a_slow_round_does_not_count(slow):
    costs, times = Costs(estimated(1.0, (9.0, 1.0))), linear(9)
    for i in range(3):
        for k in (0, 4):
            costs.add(k, times[k] * (10 if i == slow and k else 1))
    assert costs.relative()[4] == pytest.approx(times[4] / times[0])
    assert costs.relative()[8] == pytest.approx(times[8] / times[0], rel=0.01)


def test_what_is_kept_is_where_the_next_begins():
    schedule, times = Adaptive(), linear(9)
    for seed in range(3):
        generation(schedule, times, 0.9, 300, seed)
    entry = schedule.to_dict()
    again = Adaptive(None, entry)
    assert entry["acceptance"] == pytest.approx(0.9, abs=0.08)
    assert {int(k): seconds for k, seconds in entry["seconds"].items()}[0] == pytest.approx(times[0], rel=0.2)
    assert again.to_dict()["seconds"] == pytest.approx(entry["seconds"])
    assert again.draft_length() >= 2, "without an ordinary step before"


def test_times_of_a_batch_that_has_become_smaller_do_not_count():
    schedule = Adaptive()
    for _ in range(9):
        schedule.observe(0, 0, 0, 8.0, rows=8)
    for _ in range(40):
        schedule.observe(0, 0, 0, 1.0, rows=1)
    assert schedule.to_dict()["seconds"]["0"] == 8.0


def test_threads_share_what_they_learn():
    shared, failed, interval = Adaptive(), [], sys.getswitchinterval()

    def generate():
        try:
            for i in range(1000):
                if i % 20 == 0:
                    shared.begin()
                k = shared.draft_length(i % 2)
                shared.observe(k, k, k, 1 + k / 10)
                shared.to_dict()
        except Exception as error:
            failed.append(error)

    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=generate) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed
