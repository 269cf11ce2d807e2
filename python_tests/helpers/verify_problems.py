"""Hypothesis strategies for whole calls of the verification: rows as `problems.py` makes them, at k + 1 positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from eft_ext.ops import VerifyResult, fused_mix, fused_verify
from python_tests.helpers import step_problems as rows
from python_tests.helpers import token_sets

KINDS = ("ordinary", "ordinary", "certain", "same", "own")


@dataclass
class VerifyProblem:
    """One call: what `fused_verify` is given."""

    drafts: Tensor
    draft_logits: Tensor | None
    logits: list[Tensor]
    weights: list[float | Tensor]
    options: dict[str, Any]

    def run(self, backend: str) -> VerifyResult:
        call = (self.drafts, self.draft_logits, self.logits, self.weights)
        return fused_verify(*call, backend=backend, **self.options)


def positions(x: Tensor, count: int) -> Tensor:
    """Rows of positions [B * count, width], any stride, as [B, count, width]."""
    batch = x.shape[0] // count
    return x.as_strided((batch, count, x.shape[1]), (count * x.stride(0), x.stride(0), 1), x.storage_offset())


@st.composite
def verify_problems(draw: st.DrawFn) -> VerifyProblem:
    """Any call of the verification that must not raise. Proposals are drawn from q, so that they often stand."""
    batch, k, vocab = draw(st.integers(1, 3)), draw(st.integers(0, 5)), draw(st.sampled_from(rows.VOCABS))
    count = draw(st.sampled_from((1, 2, 3, 3, 4)))
    kind = draw(st.sampled_from(KINDS))
    dtype = draw(st.sampled_from((*rows.DTYPES, None)))
    offset = draw(st.sampled_from((0, 0, 1, 3)))

    def logits(number: int) -> Tensor:
        own = dtype or draw(st.sampled_from(rows.DTYPES))
        # One row at many positions: a recipe for each would be most of the time.
        few = draw(st.lists(rows._row, min_size=2, max_size=2))
        recipes = [(*few[i % 2][:3], few[i % 2][3] + i) for i in range(batch * number)]
        pad = draw(st.sampled_from((0, 0, 1, 7, 64)))
        return positions(rows._placed(rows._filled(recipes, vocab, own), pad, offset), number)

    models = [logits(k + 1) for _ in range(count)]
    weights: list[Any] = [draw(rows._per_row(rows._weight, rows._NAN, batch, torch.float32)) for _ in models]
    if kind == "same":
        weights = [1.0, *[0.0] * (count - 1)]
    alone = logits(k) if kind == "own" and k else models[0][:, :k]
    top_k = st.sampled_from((0, 0, 0, 1, 5, 50, vocab))
    reals = {"temperature": (rows._heat, (-1.0,)), "top_p": (rows._top_p, rows._BAD), "min_p": (rows._min_p, (2.0,))}
    drawn = {name: draw(rows._per_row(x, bad, batch, torch.float32)) for name, (x, bad) in reals.items()}
    drawn["top_k"] = draw(rows._per_row(top_k, (-1,), batch, torch.int64))
    own = drawn
    if draw(st.booleans()):
        own = {name: draw(rows._per_row(x, (), batch, torch.float32)) for name, (x, _) in reals.items()}
        own["top_k"] = draw(rows._per_row(top_k, (), batch, torch.int64))
    if kind == "certain":
        own = {**own, "temperature": 0.0}
    shared: dict[str, Any] = {
        "vocab_size": vocab,
        "seed": draw(rows._per_row(st.integers(0, 99), (), batch, torch.int64)),
    }
    if draw(st.integers(1, 5)) == 5:
        shared["bias"] = rows._filled([draw(rows._row)], vocab, torch.float32)[0]
    masks = draw(token_sets.bitmasks(batch * (k + 1), vocab)) if draw(st.integers(1, 5)) == 5 else None
    position = draw(rows._per_row(st.integers(0, 2**62), (), batch, torch.int64))
    token_bitmask = None if masks is None else positions(masks, k + 1)
    options = {**shared, **drawn, **{f"draft_{name}": value for name, value in own.items()}, "position": position}
    options |= {
        "token_bitmask": token_bitmask,
        "lengths": draw(rows._per_row(st.integers(0, k), (-1, k + 1), batch, torch.int64)),
    }
    if count == 3 and draw(st.booleans()):
        scale = draw(rows._per_row(rows._scale, (), batch, torch.float32))
        weights = [scale, 1.0, -scale]
        options["conservative_top_p"] = draw(rows._per_row(rows._top_p, (2.0,), batch, torch.float32))
        options["conservative_outside"] = draw(st.sampled_from(("keep", "drop")))
    if draw(st.integers(1, 5)) == 5:
        options["special_tokens"] = draw(token_sets.special_tokens(count, vocab))
    proposals = []
    for i in range(k):
        mask = None if token_bitmask is None else token_bitmask[:, i]
        step = fused_mix(
            [alone[:, i]], [1.0], position=position + i, token_bitmask=mask, backend="cpu", **shared, **own
        )
        # A row without a distribution proposes nothing; rarely a proposal is no token.
        proposals.append(step.clamp(min=0) + draw(rows._rarely(st.sampled_from((-(2**40), vocab)), st.just(0), of=32)))
    given = None if kind == "certain" else alone
    drafts = torch.stack(proposals, dim=1) if k else torch.empty(batch, 0, dtype=torch.int64)
    return VerifyProblem(drafts, given, models, weights, options)


@st.composite
def long_verify_problems(draw: st.DrawFn) -> VerifyProblem:
    """One row over a large vocabulary, whose proposals are nearly right: wide residuals and bonus tokens."""
    vocab, k = draw(st.sampled_from(rows.LARGE_VOCABS)), draw(st.integers(1, 2))
    dtype, seed = draw(st.sampled_from(rows.DTYPES)), draw(st.integers(0, 99))
    recipes = [(draw(st.sampled_from(("noise", "head", "ladder", "cliffs"))), 1.0, [], seed + i) for i in range(k + 1)]
    models = [positions(rows._placed(rows._filled(recipes, vocab, dtype), 3, 1), k + 1)]
    models.append(positions(rows._filled([(*r[:3], r[3] + 50) for r in recipes], vocab, dtype), k + 1))
    own = {"temperature": draw(st.sampled_from((0.7, 1.0))), "top_p": draw(st.sampled_from((1.0, 0.9)))}
    draws = [fused_mix([models[0][:, i]], [1.0], seed=seed, position=i, vocab_size=vocab, **own) for i in range(k)]
    options = {"seed": seed, "position": 0, "vocab_size": vocab, **own}
    weights = [1.0, draw(st.sampled_from((0.0, 0.1, -0.3, 1.0)))]
    return VerifyProblem(torch.stack(draws, dim=1), models[0][:, :k], models, weights, options)
