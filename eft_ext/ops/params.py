"""One step, checked and normalised: what every backend is handed, and its flat form for `torch.library`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.inputs import (
    Integer,
    Real,
    check_bias,
    check_logits,
    check_token_bitmask,
    in_memory,
    integer,
    real,
    resolve_vocab_size,
)
from eft_ext.ops.results import Conservative
from eft_ext.ops.seeds import seed_and_position

SETS = ("large", "tuned", "base")
OFF = Real(1.0)
Weights = Tensor | Sequence[float | Tensor]


class Mixture(NamedTuple):
    """K models' logits and how they are combined (SPEC §2, step 1)."""

    logits: tuple[Tensor, ...]  # K of [B, V_k]
    weights: tuple[Real, ...]  # K
    vocab_size: int
    conservative: int  # 0 off, else 1 + the index of the model that defines S
    drop_outside: bool
    conservative_top_p: Real
    bias: Tensor | None
    token_bitmask: Tensor | None

    @property
    def batch(self) -> int:
        return self.logits[0].shape[0]

    @property
    def device(self) -> torch.device:
        return self.logits[0].device

    def rows(self, which: slice) -> Mixture:
        """The same for some of its rows."""

        def of(x: Tensor | None) -> Tensor | None:
            return x if x is None or x.dim() == 1 else x[which]

        def option(real: Real) -> Real:
            return real if real.rows is None else real._replace(rows=real.rows[which])

        return self._replace(
            logits=tuple(x[which] for x in self.logits),
            weights=tuple(option(w) for w in self.weights),
            conservative_top_p=option(self.conservative_top_p),
            bias=of(self.bias),
            token_bitmask=of(self.token_bitmask),
        )


class Sampling(NamedTuple):
    """How a token is drawn from the mixture (SPEC §2, steps 2 to 6)."""

    temperature: Real
    top_k: Integer
    top_p: Real
    min_p: Real
    seed: Integer
    position: Integer


class Drafted(NamedTuple):
    """What a draft model proposed, and the distribution it was drawn from."""

    drafts: Tensor  # [B, k] int64, contiguous
    logits: Tensor | None  # [B, k, V]; None where the drafts are certain
    lengths: Integer  # how many of a row's drafts count
    temperature: Real
    top_k: Integer
    top_p: Real
    min_p: Real


def mixture(
    names: Sequence[str],
    logits: Sequence[Tensor],
    weights: Sequence[Real],
    vocab_size: int | None,
    conservative: Conservative | None,
    bias: Tensor | None,
    token_bitmask: Tensor | None,
) -> Mixture:
    """Checks everything but the weights, which `beta_weights` and `given_weights` made; `check_logits` came first."""
    batch, device = logits[0].shape[0], logits[0].device
    size = resolve_vocab_size(names, logits, vocab_size)
    if bias is not None:
        bias = check_bias(bias, batch, size, device)
    if token_bitmask is not None:
        token_bitmask = check_token_bitmask(token_bitmask, batch, size, device)
    defining, drop, nucleus = 0, False, OFF
    if conservative is not None:
        if conservative.set not in SETS:
            raise ValueError(f"conservative_set: expected one of {SETS}, got {conservative.set!r}")
        if conservative.outside not in ("keep", "drop"):
            raise ValueError(f"conservative_outside: expected 'keep' or 'drop', got {conservative.outside!r}")
        defining, drop = 1 + SETS.index(conservative.set), conservative.outside == "drop"
        nucleus = real("conservative_top_p", conservative.top_p, batch, device, 0, 1)
    return Mixture(tuple(logits), tuple(weights), size, defining, drop, nucleus, bias, token_bitmask)


def given_weights(weights: Weights, logits: Sequence[Tensor]) -> list[Real]:
    """K numbers or tensors [B], or one tensor [K] or [B, K]."""
    count, (batch, device) = len(logits), (logits[0].shape[0], logits[0].device)
    if isinstance(weights, Tensor):
        weights = in_memory("weights", weights)
        if weights.dim() not in (1, 2) or weights.shape[-1] != count or weights.numel() not in (count, batch * count):
            raise ValueError(f"weights: expected shape [{count}] or [{batch}, {count}], got {list(weights.shape)}")
        rows = weights.expand(batch, count) if weights.dim() == 1 else weights
        return [real("weights", rows[:, k], batch, device) for k in range(count)]
    if not isinstance(weights, Sequence):
        raise TypeError(f"weights: expected {count} numbers, or a tensor, got {type(weights).__name__}")
    if len(weights) != count:
        raise ValueError(f"weights: expected {count}, one for each model, got {len(weights)}")
    return [real(f"weights[{k}]", w, batch, device) for k, w in enumerate(weights)]


def beta_weights(beta: float | Tensor, scale: float | Tensor | None, logits: Sequence[Tensor]) -> list[Real]:
    """EFT's (1, beta, -beta), or up-scaling's (scale, 1, -scale)."""
    name, value = ("beta", beta) if scale is None else ("scale", scale)
    w = real(name, value, logits[0].shape[0], logits[0].device)
    minus = Real(-w.value, w.rows)
    return [Real(1.0), w, minus] if scale is None else [w, Real(1.0), minus]


def tensors_of(mix: Mixture, *options: Real | Integer) -> list[Tensor]:
    """All tensors of a call, but for its results."""
    options = (*mix.weights, mix.conservative_top_p, *options)
    found = [mix.bias, mix.token_bitmask, *[option.rows for option in options]]
    return [*mix.logits, *[x for x in found if x is not None]]


def sampling(
    mix: Mixture,
    temperature: float | Tensor,
    top_k: int | Tensor,
    top_p: float | Tensor,
    min_p: float | Tensor,
    seed: int | Tensor | None,
    position: int | Tensor | None,
    generator: torch.Generator | None,
) -> Sampling:
    """Checks the options and finds every row's seed, drawing one where none was given."""
    batch, device = mix.batch, mix.device
    heat = real("temperature", temperature, batch, device, 0)
    seeds = seed_and_position(seed, position, generator, heat, mix.logits)
    return Sampling(
        heat,
        integer("top_k", top_k, batch, device),
        real("top_p", top_p, batch, device, 0, 1),
        real("min_p", min_p, batch, device, 0, 1),
        *seeds,
    )


def models(logits: Sequence[Tensor]) -> list[str]:
    return [f"logits[{k}]" for k in range(len(logits))]


def checked(logits: Sequence[Tensor]) -> Sequence[Tensor]:
    if isinstance(logits, Tensor) or not isinstance(logits, Iterable):
        came = f"one tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits: expected a sequence of 1 to 4 tensors [batch, vocab], got {came}")
    logits = tuple(logits)
    return check_logits(models(logits), logits)


# ---- the flat form: what an operator's schema can carry -----------------------------------------------------

MIXTURE_SCHEMA = (
    "Tensor[] logits, float[] weights, Tensor?[] weight_rows, SymInt vocab_size, int conservative, "
    "bool drop_outside, float conservative_top_p, Tensor? conservative_top_p_rows, Tensor? bias, Tensor? token_bitmask"
)
SAMPLING_SCHEMA = ", ".join(
    f"{kind} {name}, Tensor? {name}_rows"
    for name, kind in {
        "temperature": "float",
        "top_k": "SymInt",
        "top_p": "float",
        "min_p": "float",
        "seed": "SymInt",
        "position": "SymInt",
    }.items()
)
DRAFTED_SCHEMA = (
    "Tensor drafts, Tensor? draft_logits, SymInt lengths, Tensor? lengths_rows, float draft_temperature, "
    "Tensor? draft_temperature_rows, SymInt draft_top_k, Tensor? draft_top_k_rows, float draft_top_p, "
    "Tensor? draft_top_p_rows, float draft_min_p, Tensor? draft_min_p_rows"
)
_NUM_MIXTURE = MIXTURE_SCHEMA.count(",") + 1


def flatten(mix: Mixture, draw: Sampling | None = None) -> list[Any]:
    """The arguments of an operator of `MIXTURE_SCHEMA` and, with `draw`, `SAMPLING_SCHEMA`."""
    head = [list(mix.logits), [w.value for w in mix.weights], [w.rows for w in mix.weights], mix.vocab_size]
    head += [mix.conservative, mix.drop_outside, *mix.conservative_top_p, mix.bias, mix.token_bitmask]
    return head + [part for option in draw or () for part in option]


def unflatten(arguments: Sequence[Any]) -> tuple[Mixture, Sampling | None]:
    """The inverse of `flatten`."""
    logits, weights, rows, size, conservative, drop, nucleus, nucleus_rows, bias, token_bitmask = arguments[
        :_NUM_MIXTURE
    ]
    # Of an operator's arguments torch writes out all but a list of optional tensors.
    written = (None if r is None else in_memory("weights", r) for r in rows)
    pairs = tuple(Real(w, r) for w, r in zip(weights, written, strict=True))
    mix = Mixture(tuple(logits), pairs, size, conservative, drop, Real(nucleus, nucleus_rows), bias, token_bitmask)
    rest = arguments[_NUM_MIXTURE:]
    if not rest:
        return mix, None
    heat, top_k, top_p, min_p, seed, position = (rest[i : i + 2] for i in range(0, 12, 2))
    return mix, Sampling(Real(*heat), Integer(*top_k), Real(*top_p), Real(*min_p), Integer(*seed), Integer(*position))


def flatten_drafted(drafted: Drafted) -> list[Any]:
    """The arguments of `DRAFTED_SCHEMA`."""
    return [drafted.drafts, drafted.logits, *(part for option in drafted[2:] for part in option)]


NUM_DRAFTED = DRAFTED_SCHEMA.count(",") + 1


def unflatten_drafted(arguments: Sequence[Any]) -> Drafted:
    """The inverse of `flatten_drafted`."""
    lengths, heat, top_k, top_p, min_p = (arguments[i : i + 2] for i in range(2, 12, 2))
    options = (Integer(*lengths), Real(*heat), Integer(*top_k), Real(*top_p), Real(*min_p))
    return Drafted(arguments[0], arguments[1], *options)
