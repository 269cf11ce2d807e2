"""Tokens that the models do not share, and what becomes of them in the mixture (numerics.md §15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE = 1024
_WORDS = TILE // 32


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids that do not mean the same to all models. All other ids are mixed.

    Attributes:
        own: ids that one model alone knows, such as `<think>`. To the best ordinary token they keep the odds that they
            have in that model. In rows where its weight is not above 0 they are excluded.
        never: ids that are excluded.
        owner: the model whose own these are: its name, or its index among the logits.

    Raises:
        TypeError, ValueError: an id that is no integer from 0, one that is in both, an owner that is no name or index.
    """

    own: tuple[int, ...] = ()
    never: tuple[int, ...] = ()
    owner: str | int = "tuned"

    def __post_init__(self) -> None:
        for name in ("own", "never"):
            object.__setattr__(self, name, tuple(sorted({_id(name, i) for i in getattr(self, name)})))
        both = sorted({*self.own} & {*self.never})
        if both:
            raise ValueError(f"never: expected ids beside those of own, got {both[0]} in both")
        if isinstance(self.owner, bool) or not isinstance(self.owner, (str, int)):
            raise TypeError(f"owner: expected a model's name or index, got {self.owner!r}")
        object.__setattr__(self, "_hash", hash((self.own, self.never, self.owner)))
        # Kept here, since a captured graph holds their addresses for as long as it has its method.
        object.__setattr__(self, "_made", {})

    def __hash__(self) -> int:  # of many ids, for a cache that a loop asks at every token
        return self._hash  # type: ignore[attr-defined]

    def __bool__(self) -> bool:
        return bool(self.own or self.never)

    def means(self, model: str, token: int) -> bool:
        """True if the mixture means by a token what the model means by it."""
        return token not in self.never and (token not in self.own or model == self.owner)

    def index_of_owner(self, names: Sequence[str]) -> int:
        """The owner's place among the models. Raises ValueError where it is none of them."""
        found = names.index(self.owner) if self.owner in names else self.owner
        if not isinstance(found, int) or not 0 <= found < len(names):
            raise ValueError(f"special_tokens: expected an owner among {', '.join(names)}, got {self.owner!r}")
        return found


class SpecialMasks(NamedTuple):
    """The same as the backends take it, on the logits' device."""

    tiles: Tensor  # int32 [ceil(V / 1024)]: which of `masks` is a tile's, or -1
    masks: Tensor  # int32 [n, 2, 32]: bit i % 32 of word i / 32: token i of the tile is special; is the owner's own
    owner: int  # index of the model; -1 where no token is its own

    @property
    def tokens(self) -> SpecialTokens:
        """The ids again; waits for the device."""
        bits = (self.masks.cpu()[..., None] >> torch.arange(32)) & 1 == 1  # [n, 2, 32, 32]
        special, own = bits.flatten(2).unbind(1)
        first = [tile * TILE for tile, at in enumerate(self.tiles.tolist()) if at >= 0]

        def ids(chosen: Tensor) -> tuple[int, ...]:
            return tuple(first[n] + i for n, i in chosen.nonzero().tolist())

        return SpecialTokens(ids(own), ids(special & ~own), max(0, self.owner))


def special_masks(
    given: SpecialTokens | None, names: Sequence[str], vocab_size: int, device: torch.device
) -> SpecialMasks | None:
    """The masks of the ids below `vocab_size`; None where there are none.

    Raises:
        TypeError: `given` is something else.
        ValueError: its owner is no model.
    """
    if given is None:
        return None
    if not isinstance(given, SpecialTokens):
        raise TypeError(f"special_tokens: expected SpecialTokens, got {type(given).__name__}")
    key = (given.index_of_owner(names), int(vocab_size), device)
    if torch.compiler.is_compiling():
        return _masks(given, *key)
    made: dict[Any, SpecialMasks | None] = given._made  # type: ignore[attr-defined]
    if key not in made:
        made[key] = _masks(given, *key)
    return made[key]


def _masks(given: SpecialTokens, owner: int, vocab_size: int, device: torch.device) -> SpecialMasks | None:
    tiles = [-1] * -(-vocab_size // TILE)
    words: list[list[list[int]]] = []
    for own, ids in ((1, given.own), (0, given.never)):
        for i in ids:
            if i >= vocab_size:
                continue
            if tiles[i // TILE] < 0:
                tiles[i // TILE] = len(words)
                words.append([[0] * _WORDS, [0] * _WORDS])
            word, bit = divmod(i % TILE, 32)
            for kind in range(1 + own):
                words[tiles[i // TILE]][kind][word] |= 1 << bit
    if not words:
        return None
    order = sorted(range(len(words)), key=tiles.index)
    tiles = [order.index(at) if at >= 0 else -1 for at in tiles]
    signed = [[[w - (w >> 31 << 32) for w in kind] for kind in words[at]] for at in order]
    has_own = any(i < vocab_size for i in given.own)
    with torch.inference_mode(False):  # kept for later calls, which may be in or out of it
        return SpecialMasks(
            torch.tensor(tiles, dtype=torch.int32, device=device),
            torch.tensor(signed, dtype=torch.int32, device=device),
            owner if has_own else -1,
        )


def _id(name: str, value: object) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected token ids, got {value!r}")
    found = value.__index__()
    if not 0 <= found < 2**31:
        raise ValueError(f"{name}: expected token ids from 0, got {found}")
    return int(found)
