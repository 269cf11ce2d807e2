"""Generations with drafts, simulated: rounds whose times and acceptance are given."""

import random


def linear(ratio, growth=0.1):
    """T(k) of a large model that costs `ratio` small ones, two small models beside it, over reads that grow."""
    return [(k + 1) + (ratio + 1) * (1 + growth * k) for k in range(17)]


def bent(ratio):
    """T(k) where every further token costs more than the one before."""
    return [(k + 1) + (ratio + 1) * (1 + 0.05 * k + 0.01 * k * k) for k in range(17)]


def best_rate(times, acceptance):
    """Tokens a second of the best fixed k, none among them, by the formula."""
    return max(sum(acceptance**i for i in range(k + 1)) / seconds for k, seconds in enumerate(times))


def generation(schedule, times, acceptance, new, seed, noise=0.1, first=3.0):
    """The clock after each of `new` tokens, in the unit of `times`.

    Args:
        noise: relative scatter of what a schedule is told of a round's time; one in fifty takes four times as long.
        first: how many times as long the first round of each k is said to take, as one that is traced does.
    """
    dice, clock, clocks, met = random.Random(seed), 0.0, [], set()
    schedule.begin()
    while len(clocks) < new:
        k = schedule.draft_length()
        accepted = 0
        while accepted < k and dice.random() < acceptance:
            accepted += 1
        seconds = times[k]
        clock += seconds
        clocks += [clock] * (accepted + 1)
        told = seconds * max(0.5, dice.gauss(1, noise)) * (4 if dice.random() < 0.02 else 1)
        schedule.observe(k, min(accepted + 1, k), accepted, told * (first if k not in met else 1))
        met.add(k)
    return clocks[:new]
