"""Checks of prompts and texts before they are read, with trials of families that the tests do not know."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from eft_ext.decoding import unsupported
from eft_ext.decoding.model_facts import input_table
from eft_ext.decoding.static_cache.support import IN_MODULES, is_tested
from eft_ext.hf.members import Member, kind_of
from eft_ext.hf.runners.caches import cache_argument, rope_turn
from eft_ext.hf.runners.dynamic_cache_model import DynamicCacheModel

_FOUND: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()  # what was tried, and whether it is right


def checked(member: Member, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A model's prompts [rows, length] with ids that it knows.

    Raises:
        ValueError: an id outside the vocabulary, or a batch that `check_rows` refuses.
    """
    known = input_table(member.model).num_embeddings
    if mask is not None:  # what pads for one model may be no token of another
        ids = ids.masked_fill((mask.to(ids.device) == 0) & ((ids < 0) | (ids >= known)), 0)
    for token in torch.stack(ids.aminmax()).tolist():
        if not 0 <= token < known:
            raise ValueError(f"{member.name}: token id {token} is outside this model's vocabulary of {known}")
    check_rows(member, ids, mask)
    return ids, mask


def check_rows(member: Member, ids: Tensor, mask: Tensor | None) -> None:
    """Raise ValueError for a batch, ids and mask [rows, length], that `reads_rows` does not get right."""
    if not reads_rows(member, ids, mask):
        what = "padding" if _padded(mask) else "rows that go on when others end"
        raise ValueError(
            f"inputs: expected one prompt at a time, as generate_batch gives them, since {kind_of(member)} "
            f"({member.name}) does not get {what} right"
        )


def reads_rows(member: Member, ids: Tensor, mask: Tensor | None) -> bool:
    """True if a batch, ids and mask [rows, length], suits a model, which may mix rows or read padding as text.

    Families that the tests do not know, and that do not run from static caches, are tried once, on two short rows.
    """
    padded = _padded(mask)
    return not (padded or len(ids) > 1) or _right(member, "padding" if padded else "rows")


def _padded(mask: Tensor | None) -> bool:
    return mask is not None and bool((mask == 0).any())


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
    text = [1, 2, 3] if padded else [1, 2, 3, 4, 5]
    ids = torch.tensor([[4, 5, 6, 7, 8], [0] * (5 - len(text)) + text], device="cpu")
    mask = torch.ones_like(ids)
    mask[1, : 5 - len(text)] = 0
    cached = cache_argument(member) is not None
    both, alone = (DynamicCacheModel(member, use_cache=cached) for _ in range(2))
    found = [both.prefill(ids, mask)[1], both.forward(torch.tensor([[6], [7]], device="cpu"))[1, -1]]
    both.select_rows([1])
    new = torch.tensor([7, 8], device="cpu")[:, None, None]
    found.append(both.forward(new[1])[0, -1])
    expected = [alone.prefill(ids[1:], mask[1:])[0], *(alone.forward(token)[0, -1] for token in new)]
    return _alike(torch.stack(found), torch.stack(expected))


@torch.inference_mode()
def _pieces(member: Member) -> bool:
    """True if further tokens, several at a time, get the logits that they get in one pass."""
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7]], device="cpu")
    pieces, whole = DynamicCacheModel(member), DynamicCacheModel(member, use_cache=False)
    found = torch.cat([pieces.read(ids[:, :3], keep=3), pieces.forward(ids[:, 3:])], dim=1)
    return _alike(found, whole.read(ids, keep=7))


def _alike(found: Tensor, expected: Tensor) -> bool:
    """True if two tensors of logits differ by rounding alone."""
    scale = (expected - expected.mean(-1, keepdim=True)).float().abs().amax()
    tolerance = (0.05 if found.dtype.itemsize < 4 else 0.01) * scale
    return bool(((found.float() - expected.float()).abs() <= tolerance).all())
