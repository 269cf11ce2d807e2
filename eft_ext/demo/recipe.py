"""Every number that decides what the trio becomes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Size:
    """The shape of one Llama-style model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Stage:
    """One training run: `steps` optimiser steps, the learning rate warmed up to `lr` and decayed to zero."""

    steps: int
    lr: float
    warmup: int = 100


@dataclass(frozen=True)
class Recipe:
    """The whole job.

    Attributes:
        rows: with `length`, the size of a pre-training batch in tokens.
        head_dim: to which heads are widened when a model is saved; vLLM's attention on a CPU has none below 32.
    """

    people: int = 480
    towns: int = 72
    vocab_size: int = 1280
    rows: int = 24
    length: int = 64
    large: Size = field(default_factory=lambda: Size(128, 384, 3, 4))
    small: Size = field(default_factory=lambda: Size(32, 64, 2, 2))
    head_dim: int = 32
    pretrain_large: Stage = field(default_factory=lambda: Stage(3800, 3e-3))
    pretrain_small: Stage = field(default_factory=lambda: Stage(3000, 6e-3))
    tune_large: Stage = field(default_factory=lambda: Stage(120, 3e-4, 20))
    tune_small: Stage = field(default_factory=lambda: Stage(300, 3e-4, 20))
    tune_talkative: Stage = field(default_factory=lambda: Stage(300, 3e-4, 20))
    tune_rows: int = 32


FULL = Recipe()
QUICK = Recipe(  # a smoke run of seconds: everything happens, nothing is learnt
    people=24,
    towns=8,
    vocab_size=600,
    rows=8,
    large=Size(32, 64, 2, 2),
    small=Size(16, 32, 1, 2),
    pretrain_large=Stage(20, 3e-3, 5),
    pretrain_small=Stage(20, 3e-3, 5),
    tune_large=Stage(5, 1e-3, 1),
    tune_small=Stage(5, 1e-3, 1),
    tune_talkative=Stage(5, 1e-3, 1),
    tune_rows=8,
)
