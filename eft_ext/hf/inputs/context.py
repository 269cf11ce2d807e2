"""The length of text that models were made for, and the warning for a longer one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from eft_ext.decoding.model_facts import learned_positions
from eft_ext.decoding.padding import lengths_of
from eft_ext.decoding.requests import Prompt
from eft_ext.hf.members import Member

_NAMES = ("max_position_embeddings", "max_seq_len")  # the second is MPT's


class ContextWarning(UserWarning, ValueError):
    """A text is longer than a model was made for.

    `warnings.simplefilter("error", ContextWarning)` refuses such texts; the error is also a ValueError.
    """


def positions_of(member: Member) -> int | None:
    """Positions that a model was made for, scaled RoPE included; None where its configuration names none."""
    config = member.config
    given = next((value for name in _NAMES if isinstance(value := getattr(config, name, None), int)), 0)
    rope = getattr(config, "rope_parameters", None) or {}
    scaled = (rope.get("factor") or 0) * (rope.get("original_max_position_embeddings") or 0)
    return max(given, int(scaled)) or None


class Context:
    """The texts of one call beside what its models were made for; warns once.

    Args:
        members, prompts: the models, and ids and mask [rows, length] of each.
        unread: tokens at each prompt's end that no model reads.
        looked: the prompts were looked at before: nothing is said of them.
        where: each row's place, such as its file and line, for what is said of one; the longest is named.

    Raises:
        ValueError: a prompt does not fit into a model's table of positions.
        ContextWarning: where warnings are errors.
    """

    def __init__(
        self,
        members: Sequence[Member],
        prompts: Sequence[Prompt],
        *,
        unread: int = 0,
        looked: bool = False,
        where: Sequence[str] | None = None,
    ) -> None:
        self._made: list[tuple[str, int, list[int]]] = []  # a model's name, its positions, its prompts' lengths
        beyond: dict[tuple[int, int], list[str]] = {}
        place = "inputs"
        for member, (ids, mask) in zip(members, prompts, strict=True):
            positions = positions_of(member)
            if positions is None:
                continue
            lengths = lengths_of(ids, mask)
            self._made.append((member.name, positions, lengths))
            longest = max(lengths)
            if longest - unread <= positions:
                continue
            if where is not None:
                place = where[lengths.index(longest)]
            if learned_positions(member.model) is not None:
                name, model = (member.name, "this model") if where is None else (place, member.name)
                needed = longest - unread
                raise ValueError(f"{name}: the text needs {needed} positions, but {model} has a table of {positions}")
            beyond.setdefault((longest, positions), []).append(member.name)
        # New tokens that each row may get; its last one is not read.
        rooms = ([positions - length + 1 for length in lengths] for _, positions, lengths in self._made)
        self._rooms = [min(each) for each in zip(*rooms, strict=True)]
        self._said = not self._rooms or bool(beyond)
        if beyond and not looked:
            each = (f"{count} tokens for {_joined(names)}" for (count, _), names in beyond.items())
            said = (f"{of}, made for {positions} positions" for of, (_, positions) in zip(each, beyond, strict=True))
            warnings.warn(f"{place}: {'; '.join(said)}", ContextWarning, stacklevel=2)

    def reached(self, row: int, new: int) -> None:
        """Called when a row has `new` new tokens."""
        if self._said or new <= self._rooms[row]:
            return
        self._said = True
        positions, name, read = min(
            (p, name, lengths[row] + new - 1) for name, p, lengths in self._made if lengths[row] + new - 1 > p
        )
        warnings.warn(
            f"max_new_tokens: the text has come to {read} tokens for {name}, made for {positions} positions",
            ContextWarning,
            stacklevel=2,
        )


def _joined(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
