"""The summary of a tile: its largest t, its mass, its largest tokens, its sums at temperature 1."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY, LN_2, LOG2_E, exp_nonpositive, token_mass
from eft_ext.ops.triton.common.mix import MIXTURE, logits_of, model_logits, owner_logits, scaled


@triton.jit
def store_mass(t, at, summary, MASSES: tl.constexpr):
    """Writes the largest t (+inf: the row is invalid) and W_T at a_T = floor(largest). Returns the largest."""
    top = tl.max(t)
    tl.store(summary.top + at, top)
    if MASSES:
        tl.store(summary.mass + at, tl.sum(token_mass(t, tl.floor(top))))
    return top


@triton.jit
def _eighths(t):
    """t [1024] as eight columns [128]: each thread's own eight consecutive tokens, so nothing moves."""
    even, odd = tl.split(tl.reshape(t, [128, 2, 2, 2]))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    a0, a1 = tl.split(a)
    b0, b1 = tl.split(b)
    c0, c1 = tl.split(c)
    d0, d1 = tl.split(d)
    return a0, a1, b0, b1, c0, c1, d0, d1


@triton.jit
def store_candidates(t, top, c, at, summary, SLOTS: tl.constexpr):
    """Lists the t above a cut and writes the cut: every token of the tile with t > listed_above is listed.

    The cut is the deepest of four above which no more than SLOTS / 2 of the 128 groups of eight tokens reach; where
    their tokens overflow the list, none is listed. One sum counts for all four cuts, in 16 bits each. The list's order
    means nothing.
    """
    columns = _eighths(t)
    best = columns[0]
    for i in tl.static_range(1, 8):
        best = tl.maximum(best, columns[i])
    stretch = tl.maximum(c * LN_2, 1.0)  # 1 / temperature: a cold row's logits lie far apart
    cut0, cut1, cut2 = top - 2.5 * stretch, top - 6.0 * stretch, top - 14.0 * stretch
    above = (best > cut0).to(tl.uint64) + ((best > cut1).to(tl.uint64) << 16)
    above += ((best > cut2).to(tl.uint64) << 32) + ((best > -INFINITY).to(tl.uint64) << 48)
    groups = tl.sum(above)
    listed_above = tl.where((groups & 0xFFFF) <= SLOTS // 2, cut0, top)
    listed_above = tl.where(((groups >> 16) & 0xFFFF) <= SLOTS // 2, cut1, listed_above)
    listed_above = tl.where(((groups >> 32) & 0xFFFF) <= SLOTS // 2, cut2, listed_above)
    listed_above = tl.where((groups >> 48) <= SLOTS // 2, -INFINITY, listed_above)

    of_thread = (columns[0] > listed_above).to(tl.int32)
    for i in tl.static_range(1, 8):
        of_thread += (columns[i] > listed_above).to(tl.int32)
    count = tl.sum(of_thread)
    listed_above = tl.where(count <= SLOTS, listed_above, top)
    tl.store(summary.listed_above + at, listed_above)
    tl.store(summary.num_listed + at, tl.where(count <= SLOTS, count, 0))
    place = tl.cumsum(of_thread, axis=0) - of_thread
    for i in tl.static_range(8):
        listed = columns[i] > listed_above
        tl.store(summary.tokens + at * SLOTS + place, columns[i], mask=listed)
        place += listed.to(tl.int32)


@triton.jit
def store_sums(z, excluded, at, sums):
    """Writes the sums at temperature 1: the largest z, sum of e = exp(z - largest), sum of e (z - largest)."""
    z = tl.where(excluded, -INFINITY, z)
    top = tl.max(tl.where(z < INFINITY, z, -INFINITY))
    d = tl.where(z < INFINITY, z, -INFINITY) - top
    e = exp_nonpositive(d)
    tl.store(sums.top + at, top)
    tl.store(sums.total + at, tl.sum(e))
    tl.store(sums.weighted + at, tl.sum(tl.where(e > 0.0, e * d, 0.0)))


@triton.jit
def store_num_tokens(t, at, summary):
    """Counts the tile's tokens that are not excluded."""
    tl.store(summary.num_tokens + at, tl.sum((t > -INFINITY).to(tl.int32)))


@triton.jit
def store_maxima(mix, flat_row, raw, ids, z, excluded, at, ordinary):
    """Writes the largest logits of the mixture and of the owner; z: of the ordinary tokens, the others excluded."""
    y = scaled(z, excluded, 1.0)
    tau = owner_logits(mix, flat_row, raw, ids)[0]
    tl.store(ordinary.best + at, tl.max(y))
    tl.store(ordinary.best_of_owner + at, tl.max(tl.where(y > -INFINITY, tau, -INFINITY)))


@triton.jit
def store_tile(
    mix,
    flat_row,
    raw,
    ids,
    tile,
    at,
    c,
    nucleus,
    work,
    SLOTS: tl.constexpr,
    SOURCE: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    DETAILS: tl.constexpr,
):
    """Writes the summary of one tile of the mixture; raw: its models' logits, as of `load_models`; tile: as for
    `logits_of`."""
    z, excluded = logits_of(mix, flat_row, raw, ids, nucleus, SOURCE, tile)
    if mix.owner is not None:  # noqa: SIM102 (both are the compiler's)
        if nucleus[3] is None:
            store_maxima(mix, flat_row, raw, ids, z, excluded, at, work.ordinary)
    t = scaled(z, excluded, c)
    top = store_mass(t, at, work.mixture, not GREEDY)
    if LISTS:
        store_candidates(t, top, c, at, work.mixture, SLOTS)
    if DETAILS:
        store_num_tokens(t, at, work.mixture)
        store_sums(z, excluded, at, work.sums)


@triton.jit
def store_summaries(
    mix,
    flat_row,
    raw,
    ids,
    tile,
    c,
    work,
    num_tiles,
    SLOTS: tl.constexpr,
    DEFINING: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    DETAILS: tl.constexpr,
):
    """Writes the summaries of one tile in the slices' launch.

    DEFINING < 0: of the mixture. Otherwise (conservative re-weighting): of each of the three models, and model
    DEFINING's largest tokens; the mixture follows in the rows' launch, once S is known.
    """
    at = flat_row * num_tiles + tile
    if DEFINING < 0:
        store_tile(
            mix, flat_row, raw, ids, tile, at, c, (0.0, 0, 0.0, None), work, SLOTS, MIXTURE, LISTS, GREEDY, DETAILS
        )  # fmt: skip
    for k in tl.static_range(len(mix.logits)):
        at_model = (flat_row * len(mix.logits) + k) * num_tiles + tile
        if DEFINING >= 0:
            unit = tl.cast(LOG2_E, tl.float32)
            x, excluded = model_logits(mix, raw, ids, k)
            t = scaled(x, excluded, unit)
            top = store_mass(t, at_model, work.models, True)
            if k == DEFINING:
                store_candidates(t, top, unit, at, work.defining, SLOTS)
        if DETAILS:
            x, excluded = model_logits(mix, raw, ids, k)
            store_sums(x, excluded | ~(x < float("inf")), at_model, work.model_sums)
