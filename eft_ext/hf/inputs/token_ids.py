"""Special tokens of a model's generation settings: which ids there are, and whether they are ids of its vocabulary."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
UNUSED = -1  # in many configurations; no text has it


def as_list(eos: Any) -> list[int]:
    """eos_token_id in any of the forms that a configuration has it in. Raises ValueError for what is no id."""
    try:
        ids = torch.as_tensor([] if eos is None else eos, device="cpu").reshape(-1)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"eos_token_id: expected a token id or a list of them, got {eos!r}") from error
    if len(ids) and (ids.is_floating_point() or ids.dtype == torch.bool):
        raise ValueError(f"eos_token_id: expected a token id or a list of them, got {eos!r}")
    found: list[int] = ids.tolist()
    return found


def check_ids(where: str, settings: Mapping[str, Any]) -> dict[str, list[int]]:
    """The special tokens of generation settings, by key. Raises ValueError with file and key for what is no id.

    Args:
        where: the file that they are from.
        settings: as in generation_config.json.
    """
    found = {}
    for key in _KEYS:
        value = settings.get(key)
        several = key == "eos_token_id"
        try:
            if isinstance(value, list) and not several:
                raise ValueError
            found[key] = as_list(value)
        except ValueError:
            wanted = "a token id" + " or a list of them" * several
            raise ValueError(f"{where}, key {key!r}: expected {wanted}, got {value!r}") from None
    return found


def warn_beyond(name: str, where: str, ids: Mapping[str, list[int]], width: int) -> None:
    """Warns of special tokens that a model does not have, as those of real checkpoints; `UNUSED` is passed over.

    Args:
        name: the model.
        where, ids: as for, and from, `check_ids`.
        width: columns of the model's logits.
    """
    for key, each in ids.items():
        for one in each:
            if one != UNUSED and not 0 <= one < width:
                warnings.warn(
                    f"{name}: {where}, key {key!r}: {one} is none of the model's {width} tokens", stacklevel=5
                )
