"""One cell of the grid, a trio with so many rows of prompts of one length: all contenders in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import common  # noqa: F401
import torch
from torch import Tensor

from peers.clock import Clock, Taken
from peers.contenders import ALONE_TOO, OURS, Ours, Run, contenders, large_vocabulary
from peers.floor import bytes_a_token

NEAR = 1e-4  # logits nearer than this are a tie: fp32 sums in another order
MAX_FIRST = 9  # of a contender's first calls
HEAVY = 4096  # tokens of all prompts from which a cell has few contenders, few new tokens and no warm-up
CHECKED = 32  # new tokens that are compared


@dataclass(frozen=True)
class Cell:
    """Rows, tokens of a prompt, new tokens of a later call."""

    rows: int
    prompt: int
    new: int

    def ids(self, models: Sequence[Any], device: str) -> Tensor:
        """Returns random prompts [rows, prompt]."""
        vocab = min(model.config.vocab_size for model in models)
        generator = torch.Generator().manual_seed(2)
        return torch.randint(5, vocab, (self.rows, self.prompt), generator=generator).to(device)


class DifferentTokens(Exception):
    """Raised where a contender's greedy tokens are not ours; the message says which and where."""


@torch.no_grad()
def differing(models: Sequence[Any], name: str, found: Tensor, ours: Tensor, prompt: int) -> int:
    """Returns the rows that differ from ours after a tie of two logits.

    Raises:
        DifferentTokens: without such a tie.
    """
    ties = 0
    for row in range(len(ours)):
        places = (found[row] != ours[row]).nonzero()
        if not len(places):
            continue
        at = int(places[0])
        read = [m(ours[row : row + 1, :at], logits_to_keep=1).logits[0, -1].double() for m in models]
        z = read[0] + (read[1] - read[2])
        gap = float((z[found[row, at]] - z[ours[row, at]]).abs())
        if gap > NEAR:
            raise DifferentTokens(
                f"{name}: row {row}, new token {at - prompt}: {int(found[row, at])}, and {int(ours[row, at])} by "
                f"{OURS}; their logits are {gap:.2g} apart"
            )
        ties += 1
    return ties


@torch.no_grad()
def check(models: Sequence[Any], runs: dict[str, Run], cell: Cell, strict: bool) -> dict[str, dict[str, Any]]:
    """Calls all, and compares their greedy tokens with ours where `strict`; returns what is known by name."""
    about: dict[str, dict[str, Any]] = {name: {} for name in runs}
    new = min(cell.new, CHECKED)
    tokens: dict[str, Tensor] = {}
    for name, run in runs.items():
        tokens[name], share = run.accepted(new) if isinstance(run, Ours) else (run(new), None)
        if tokens[name].shape != (cell.rows, cell.prompt + new):
            raise DifferentTokens(f"{name}: expected {new} new tokens in each row, got {list(tokens[name].shape)}")
        if share is not None:
            about[name]["accepted"] = share
    for name in tokens:
        if name not in ALONE_TOO and OURS in tokens:
            about[name]["equal_rows"] = int((tokens[name] == tokens[OURS]).all(1).sum())
            if strict:
                about[name]["ties"] = differing(models, name, tokens[name], tokens[OURS], cell.prompt)
    return about


def measure(
    models: Sequence[Any],
    cell: Cell,
    names: Sequence[str],
    sample: bool,
    clock: Clock,
    limits: dict[str, float],
    said: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Returns medians over rounds, `limits["rounds"]` at most, of which one begins in `limits["seconds"]`.

    A round is a call of each contender for one new token, and one for all. The slope between them is a step's time.
    """  # fmt: skip
    end = time.monotonic() + limits["seconds"]
    runs = contenders(models, cell.ids(models, clock.device), names, sample)
    fp32 = models[0].dtype == torch.float32
    said("comparing tokens")
    about = check(models, runs, cell, strict=fp32 and not sample)
    # Ours traces a model after some passes, and "auto" learns: later calls are those that come after.
    for name, run in runs.items():
        if isinstance(run, Ours) and cell.rows * cell.prompt < HEAVY:  # in a heavy cell the comparison has to do
            said(f"warming up {name}")
            run.warm_up(cell.new)
    times: dict[str, list[tuple[Taken, Taken]]] = {name: [] for name in runs}
    rounds = 0
    while rounds < limits["rounds"] and (not rounds or time.monotonic() < end):
        rounds += 1
        for name, run in runs.items():
            said(f"round {rounds}, {name}")
            times[name].append((clock.time(lambda run=run: run(1)), clock.time(lambda run=run: run(cell.new))))
    for name, pairs in times.items():
        about[name] |= rates(pairs, cell)
    weights = {"trio": bytes_a_token(models), "large": bytes_a_token(models[:1])}
    return {
        "rows": cell.rows, "prompt": cell.prompt, "new_tokens": cell.new, "rounds": rounds,
        "dtype": str(models[0].dtype).removeprefix("torch."), "vocab": large_vocabulary(models),
        "bytes_a_token": weights, "contenders": about,
    }  # fmt: skip


def rates(pairs: Sequence[tuple[Taken, Taken]], cell: Cell) -> dict[str, float]:
    """Returns medians in seconds of (first token, whole call, each token between), and whole calls' tokens a second."""
    step = statistics.median(whole.seconds - first.seconds for first, whole in pairs) / (cell.new - 1)
    first, whole = (statistics.median(pair[i].seconds for pair in pairs) for i in (0, 1))
    return {
        "first_token_s": first,
        "call_s": whole,
        "call_wall_s": statistics.median(whole.wall for _, whole in pairs),
        "step_s": step,
        "tokens_per_second": cell.rows * cell.new / whole,
    }


def add_floor(result: dict[str, Any], bandwidth: float) -> None:
    """Adds tokens a second of all rows at which the weights alone take all the bandwidth, and each step's share."""
    rows = result["rows"]
    floor = {name: rows * bandwidth / size for name, size in result["bytes_a_token"].items()}
    result["floor_tokens_per_second"] = floor
    for name, found in result["contenders"].items():
        found["of_floor"] = rows / found["step_s"] / floor["large" if name in ALONE_TOO else "trio"]
