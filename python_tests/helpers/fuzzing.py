"""Fuzz tests: examples that stay the same, and the long search, rounds of fresh ones until the time is up."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis.strategies import SearchStrategy

SECONDS = float(os.environ.get("EFT_FUZZ_SECONDS", "0"))
COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
}


def made_up(check: Callable[[Any], None], strategy: SearchStrategy[Any], examples: int) -> None:
    """Checks so many examples: the same ones each time, other ones for another number."""
    phases = (Phase.explicit, Phase.generate, Phase.shrink)
    settings_ = settings(max_examples=examples, phases=phases, **COMMON)
    hypothesis_seed(examples)(settings_(given(strategy)(check)))()


def search(check: Callable[[Any], None], made: Sequence[tuple[SearchStrategy[Any], int]], seconds: float) -> None:
    """Checks examples of each strategy, so many a round; the first finding ends it, with the seed that led there."""
    end, examples = time.monotonic() + seconds, 0

    def counted(problem: Any) -> None:
        nonlocal examples
        examples += 1
        check(problem)

    try:
        while time.monotonic() < end:
            start = random.SystemRandom().randrange(2**32)
            for strategy, count in made:
                hypothesis_seed(start)(settings(max_examples=count, **COMMON)(given(strategy)(counted)))()
    except AssertionError:
        print(f"fuzz: failed in the round of seed {start}")
        raise
    finally:
        print(f"fuzz: {examples} examples")
