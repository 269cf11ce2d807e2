"""Scoring texts: teacher-forced through all models, some positions at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eft_ext.decoding.mixture import for_rows
from eft_ext.decoding.placement import together
from eft_ext.hf.inputs.context import Context
from eft_ext.hf.inputs.prompts import Prompt
from eft_ext.hf.members import Member
from eft_ext.hf.runners.checks import checked
from eft_ext.hf.scoring.pieces import shared_prompts, whole_rows
from eft_ext.methods import MixingMethod
from eft_ext.ops import Score, combine, fused_score_mix
from eft_ext.ops.method import Method, at_positions
from eft_ext.ops.positions import option_rows

IGNORED = -100
_LOGITS = 1 << 26  # of all models at a time: 128 MB in bf16


@dataclass(frozen=True)
class Candidates:
    """The first tokens of each distribution's rank, with their probabilities under every distribution.

    Attributes:
        ids: [B, T, C] int64, descending; -1 past the end.
        logprobs: [B, T, C, D] fp32, theirs under every distribution.
    """

    ids: Tensor
    logprobs: Tensor


@dataclass(frozen=True)
class SequenceScore:
    """The models' and their mixture's scores of B texts, token by token and in sum.

    The last dimension D follows `names`: the models in the method's order, then "mixture". Rows are aligned at their
    ends: column -1 is each text's last token.

    Attributes:
        ids: [B, T] int64, the scored tokens; -100 where nothing is scored.
        tokens: a `Score` [B, T, ...]; status 2 where nothing is scored.
        names: of the distributions: the models', then "mixture".
        candidates: with `score(candidates=)`.
    """

    ids: Tensor
    tokens: Score
    names: tuple[str, ...]
    candidates: Candidates | None = None

    @property
    def compared(self) -> str:
        """The model that the mixture is compared with (`tv`, `kl`, `up`, `down`)."""
        return compared_of(self.names)

    @property
    def counts(self) -> Tensor:
        """The number of scored tokens of each row, [B] int64."""
        return (self.ids != IGNORED).sum(dim=1)

    @property
    def logprobs(self) -> Tensor:
        """The log-probability of each whole text, in nats, [B, D] float64."""
        return self.tokens.logprobs.double().sum(dim=1)

    @property
    def perplexity(self) -> Tensor:
        """exp of minus the mean log-probability of a token, [B, D] float64; NaN for a row without tokens."""
        return (-self.logprobs / self.counts[:, None]).exp()

    @property
    def reward(self) -> Tensor:
        """log π_tuned - log π_base of each text, [B] float64: the implicit reward of its fine-tuning (beta = 1)."""
        if not {"tuned", "base"} <= set(self.names):
            raise ValueError(f"reward: expected tuned and base among the models, got {', '.join(self.names[:-1])}")
        sums = self.logprobs
        return sums[:, self.names.index("tuned")] - sums[:, self.names.index("base")]


def compared_of(names: Sequence[str]) -> str:
    """The small fine-tuned model, where one is called so, else the method's first."""
    return next((name for name in names if name.startswith("tuned")), names[0])


@torch.no_grad()
def score(
    members: tuple[Member, ...],
    method: MixingMethod,
    vocab_size: int,
    texts: Mapping[str, Prompt],
    targets: Tensor,
    *,
    num_top: int,
    num_changed: int,
    candidates: int,
    positions: int | None,
) -> SequenceScore:
    """Reads `texts` (the first model's, and others' where theirs differ), whose last columns are `targets` [B, T].

    The step of a method whose parameters are functions of it is the number of a row's scored tokens before. Keyword
    arguments as for `EmulatedModel.score`.
    """
    if positions is not None and (isinstance(positions, bool) or not isinstance(positions, int) or positions < 1):
        raise ValueError(f"positions: expected an integer of at least 1, got {positions!r}")
    own = [texts.get(member.name, texts[members[0].name]) for member in members]
    Context(members, [text.pair for text in own], unread=1)
    rows, length = targets.shape
    names = (*(member.name for member in members), "mixture")
    resolved = for_rows(method, rows)
    step = positions or max(1, _LOGITS // (rows * vocab_size * len(members)))
    whole = [checked(member, *text.pair) for member, text in zip(members, own, strict=True)]
    counts = (targets != IGNORED).sum(dim=1)
    shared = shared_prompts(members, whole, counts.tolist())
    if shared is None:
        ends, back = torch.full_like(counts, length), None
        each = [whole_rows(member, *text, length, step) for member, text in zip(members, whole, strict=True)]
    else:  # responses then begin in the first column
        order = (targets == IGNORED).long().argsort(dim=1, stable=True)
        ends, back, targets = counts, order.argsort(dim=1), targets.gather(1, order)
        each = [text.pieces(member, step) for member, text in zip(members, shared, strict=True)]
    steps = ((targets != IGNORED).cumsum(dim=1) - 1).clamp(min=0)
    top = max(num_top, candidates)
    found: list[Score] = []
    listed: list[Candidates] = []
    start = 0
    for piece in zip(*each, strict=True):
        count = piece[0].shape[1]
        logits = together(piece, piece[0].device)
        if start == 0:
            device = logits[0].device
            targets = targets.to(device)
            resolved = for_rows(resolved, rows, device=device)
        some = targets[:, start : start + count]
        now = at_positions(resolved, some.shape, steps[:, start : start + count], device)
        part = fused_score_mix(
            logits,
            now,
            some,
            compared=names.index(compared_of(names)),
            vocab_size=vocab_size,
            ignore_index=IGNORED,
            num_top=top,
            num_changed=num_changed,
        )
        _raise_invalid(part.status, [x[..., :vocab_size] for x in logits], members, ends - start)
        if candidates:
            listed.append(_candidates([x[..., :vocab_size] for x in logits], now, part))
        found.append(part)
        start += count
    tokens = Score(*(torch.cat(pieces, dim=1) for pieces in zip(*found, strict=True)))
    tokens = tokens._replace(top_ids=tokens.top_ids[..., :num_top], top_logprobs=tokens.top_logprobs[..., :num_top])
    lists = _joined(listed) if listed else None
    if back is not None:
        places = torch.arange(rows, device=device)[:, None], back.to(device)
        targets, tokens = targets[places], Score(*(x[places] for x in tokens))
        lists = None if lists is None else Candidates(lists.ids[places], lists.logprobs[places])
    return SequenceScore(targets, tokens, names, lists)


def _candidates(logits: list[Tensor], method: Method, part: Score) -> Candidates:
    """Scores the tokens that any of the distributions ranks first under all of them."""
    rows, length = part.status.shape
    ids = part.top_ids.flatten(2).sort(dim=-1, descending=True).values  # [B, T, D·n], -1 last
    ids = torch.where(torch.nn.functional.pad(ids[..., :-1] == ids[..., 1:], (1, 0)), -1, ids)
    ids = ids.sort(dim=-1, descending=True).values
    ids = ids[..., : int((ids >= 0).sum(dim=-1).max())]
    each = method.mapped(lambda name, value: option_rows(name, value, part.status, slice(None)))
    z = combine([x.flatten(0, 1) for x in logits], each).unflatten(0, (rows, length))
    own = [x.gather(-1, ids.clamp(min=0)).double() for x in (*logits, z)]
    logprobs = torch.stack(own, dim=-1) - part.lse[:, :, None]
    there = (ids >= 0)[..., None]
    return Candidates(ids, torch.where(there, logprobs, -math.inf).float())


def _joined(parts: list[Candidates]) -> Candidates:
    width = max(part.ids.shape[2] for part in parts)

    def cat(name: str, value: float) -> Tensor:
        pieces = [getattr(part, name) for part in parts]
        missing = [width - x.shape[2] for x in pieces]
        pads = [(0, m) if x.dim() == 3 else (0, 0, 0, m) for x, m in zip(pieces, missing, strict=True)]
        return torch.cat(
            [torch.nn.functional.pad(x, pad, value=value) for x, pad in zip(pieces, pads, strict=True)], dim=1
        )

    return Candidates(cat("ids", -1), cat("logprobs", -math.inf))


def _raise_invalid(status: Tensor, logits: Sequence[Tensor], members: Sequence[Member], ends: Tensor) -> None:
    """`status` and `logits` of the same positions [rows, n]; `ends` [rows] are the first columns behind each text."""
    bad = torch.nonzero(status == 1)
    if not len(bad):
        return
    row, column = bad[0].tolist()
    each = ((member.name, x[row, column]) for member, x in zip(members, logits, strict=True))
    names = [name for name, x in each if bool((x.isnan() | (x == torch.inf)).any())]
    why = "nothing is left to choose from, or the token has no logit in one of the models"
    if names:
        why = f"the logits of {' and '.join(names)} hold NaN or +inf"
    raise RuntimeError(f"row {row}, token {column - int(ends[row])} from the end: {why}")
