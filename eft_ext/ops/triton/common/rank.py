"""The first of a row in some order, one after the other: the part (a tile, or less) with the largest token yields it;
that part is read again for its next largest. Two numbers are kept for each part, so lists may be of any length."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY

NO_TOKEN = tl.constexpr(0x7FFFFFFF)


@triton.jit
def leading_part(top, P: tl.constexpr):
    """The first part that holds the largest. top: of each part [P]."""
    return tl.min(tl.where(top == tl.max(top), tl.arange(0, P), P - 1))


@triton.jit
def nothing_taken(P: tl.constexpr):
    """For `take`: the last id taken among tokens equal to a part's best, [P]."""
    return tl.full([P], -1, tl.int32)


@triton.jit
def take(values, ids, part, top, passed, P: tl.constexpr):
    """The row's next token, which lies in `part`, the leading one, whose tokens these are; `top` and `passed` then."""
    chosen = tl.arange(0, P) == part
    best = tl.max(top)
    last = tl.max(tl.where(chosen, passed, -1))
    token = tl.min(tl.where((values == best) & (ids > last), ids, NO_TOKEN))
    following = tl.max(tl.where((values < best) | ((values == best) & (ids > token)), values, -INFINITY))
    passed = tl.where(chosen, tl.where(following == best, token, -1), passed)
    return token, tl.where(chosen, following, top), passed
