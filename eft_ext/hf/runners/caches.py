"""The needs of transformers' own caches and batches: families with recurrent layers differ in both."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from eft_ext.decoding import unsupported
from eft_ext.decoding.static_cache.support import IN_MODULES, is_tested
from eft_ext.hf.members import Member, kind_of

RECURRENT = "cache_params"  # where nothing but the state is kept: its mask is that of the new tokens
_FOUND: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()  # what was tried, and whether it is right


def cache_argument(member: Member) -> str | None:
    """The argument by which the forward pass takes a cache that grows, None where it takes none."""
    if member.config.model_type in IN_MODULES:
        return None
    accepted = member.forward_parameters()
    return next((name for name in ("past_key_values", RECURRENT) if name in accepted), None)


def new_cache(member: Member) -> Any:
    """An empty cache for a generation; None for a model that makes one of its own kind in its first pass."""
    usual = getattr(member.model, "_supports_default_dynamic_cache", lambda: True)()
    return DynamicCache(config=member.config) if usual else None


def rope_turn(member: Member) -> int | None:
    """Tokens above which the longest row gives all positions other frequencies (RoPE of the kind longrope)."""
    rope = getattr(member.config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    name = "original_max_position_embeddings"
    turn = rope.get(name) or getattr(member.config, name, None)
    return None if turn is None else int(turn)


def check_rows(member: Member, ids: Tensor, mask: Tensor | None) -> None:
    """Raise ValueError for a batch, ids and mask [rows, length], of a model that mixes rows or reads padding as text.

    Families that the tests do not know, and that do not run from static caches, are tried once, on two short rows.
    """
    padded = mask is not None and bool((mask == 0).any())
    if (padded or len(ids) > 1) and not _right(member, "padding" if padded else "rows"):
        what = "padding" if padded else "rows that go on when others end"
        raise ValueError(
            f"inputs: expected one prompt at a time, as generate_batch gives them, since {kind_of(member)} "
            f"({member.name}) does not get {what} right"
        )


def reads_pieces(member: Member, length: int) -> bool:
    """True if a text of `length` that is read in pieces of several tokens has the logits of a pass over all of it."""
    turn = rope_turn(member)
    return cache_argument(member) is not None and (turn is None or length <= turn) and _right(member, "pieces")


def _right(member: Member, what: str) -> bool:
    model = member.model
    if what == "padding" and member.config.model_type in IN_MODULES:
        return False  # a trial would find it right: the padding of a model without training has an embedding of zeros
    if is_tested(model) or unsupported(model) is None:
        return True
    known = _FOUND.setdefault(model, {})
    if what not in known:
        try:
            known[what] = _pieces(member) if what == "pieces" else _apart(member, what == "padding")
        except Exception:  # whatever a model does with a cache or a mask of another kind
            known[what] = False
    return known[what]


@torch.inference_mode()
def _apart(member: Member, padded: bool) -> bool:
    """True if a row's logits in a batch, and after the other row has left, are those that it has alone."""
    from eft_ext.hf.runners.dynamic_cache_model import Runner

    device = member.device or torch.device("cpu")
    text = [1, 2, 3] if padded else [1, 2, 3, 4, 5]
    ids = torch.tensor([[4, 5, 6, 7, 8], [0] * (5 - len(text)) + text], device=device)
    mask = torch.ones_like(ids)
    mask[1, : 5 - len(text)] = 0
    both, alone = Runner(member, trial=True), Runner(member, trial=True)
    found = [both.prefill(ids, mask)[1], both.step(torch.tensor([6, 7], device=device))[1]]
    both.keep(torch.tensor([1], device=device))
    new = torch.tensor([7, 8], device=device)[:, None]
    found.append(both.step(new[1])[0])
    expected = [alone.prefill(torch.tensor([text], device=device), None)[0], *(alone.step(token)[0] for token in new)]
    return _alike(torch.stack(found), torch.stack(expected))


@torch.inference_mode()
def _pieces(member: Member) -> bool:
    from eft_ext.hf.runners.reading import Reader

    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7]], device="cpu")
    pieces, whole = Reader(member, ids, None), Reader(member, ids, None, cached=False)
    return _alike(torch.cat([pieces.read(3, 3), pieces.read(4, 4)], dim=1), whole.read(7, 7))


def _alike(found: Tensor, expected: Tensor) -> bool:
    """True if two tensors of logits differ by rounding alone."""
    scale = (expected - expected.mean(-1, keepdim=True)).float().abs().amax()
    tolerance = (0.05 if found.dtype.itemsize < 4 else 0.01) * scale
    return bool(((found.float() - expected.float()).abs() <= tolerance).all())
