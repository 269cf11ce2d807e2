"""The last two launches of a verification: the first rejection's residual summed by tiles, the tokens written."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import TILE
from eft_ext.ops.triton.common.draw import kept_mass
from eft_ext.ops.triton.common.mix import MIXTURE, REWEIGHTED, row_t
from eft_ext.ops.triton.common.options import load_integer, load_real, scale_of
from eft_ext.ops.triton.common.philox import RESIDUAL, random_bits
from eft_ext.ops.triton.verify.accept import decide, is_certain_draft, seed_and_position


@triton.jit
def _masses(dist, row, flat_row, ids, tile, num_tiles, DEFINING: tl.constexpr, LISTS: tl.constexpr):
    """The survivors' masses of one tile at the flat row's reference, 0 of other tokens."""
    SOURCE: tl.constexpr = MIXTURE if DEFINING < 0 else REWEIGHTED + DEFINING
    c = scale_of(load_real(dist.sampling.temperature, row))
    summary = dist.summary
    if DEFINING >= 0:
        nucleus = (
            tl.load(summary.nucleus_cutoff + flat_row),
            tl.load(summary.nucleus_last + flat_row),
            tl.load(summary.nucleus_delta + flat_row),
            None,
        )
    else:
        nucleus = (0.0, 0, 0.0, None)
    if dist.mix.owner is not None:
        nucleus = (nucleus[0], nucleus[1], nucleus[2], tl.load(summary.own_delta + flat_row))
    ties = 0
    if LISTS:
        ties = tl.load(dist.summary.ties + flat_row * num_tiles + tile)
    t = row_t(dist.mix, flat_row, ids, c, nucleus, SOURCE, tile)
    return kept_mass(t, tl.load(dist.summary.cutoff + flat_row), ties, tl.load(dist.summary.reference + flat_row))


@triton.jit
def _residual(
    p,
    q,
    drafts,
    row,
    i,
    tile,
    num_drafts,
    num_tiles,
    DEFINING: tl.constexpr,
    LISTS: tl.constexpr,
    DRAFTED: tl.constexpr,
    DRAFT_LISTS: tl.constexpr,
):
    """rho of one tile's tokens, int64 [1024]; one rounding for each operation in fp64, nothing fused."""
    flat_row = row * (num_drafts + 1) + i
    ids = tile * TILE + tl.arange(0, TILE)
    w = _masses(p, row, flat_row, ids, tile, num_tiles, DEFINING, LISTS).to(tl.int64)
    rho = tl.where(ids == tl.load(drafts + row * num_drafts + i), 0, w)
    if DRAFTED:  # noqa: SIM102
        if ~is_certain_draft(q, row):
            flat_row_q = row * num_drafts + i
            of_q = _masses(q, row, flat_row_q, ids, tile, num_tiles, -1, DRAFT_LISTS)
            total_p = tl.load(p.summary.total + flat_row).to(tl.float64)
            ratio = total_p / tl.load(q.summary.total + flat_row_q).to(tl.float64)
            rest = w.to(tl.float64) - of_q.to(tl.int64).to(tl.float64) * ratio
            rho = tl.where(rest > 0.0, rest, 0.0).to(tl.int64)
    return rho


@triton.jit(do_not_specialize=["length", "seed", "position", "num_drafts"])
def residual_kernel(
    p,
    q,
    drafts,
    lengths,
    row_valid,
    sums,
    length: tl.int64,
    seed: tl.int64,
    position: tl.int64,
    num_drafts: tl.int32,
    num_tiles,
    num_slices,
    TILES: tl.constexpr,
    DEFINING: tl.constexpr,
    LISTS: tl.constexpr,
    DRAFTED: tl.constexpr,
    DRAFT_LISTS: tl.constexpr,
    KP: tl.constexpr,
):
    """Program (row, slice): the sum of rho over each of TILES tiles, in rows whose next token is redrawn."""
    program = tl.program_id(0)
    row = (program // num_slices).to(tl.int64)
    first = (program % num_slices) * TILES
    length = load_integer(length, lengths, row)
    seed, position = seed_and_position(p, seed, position, row)
    if tl.load(row_valid + row) != 0:
        i, _, redrawn = decide(p, q, drafts, row, length, num_drafts, seed, position, False, DRAFTED, KP)
        end = tl.where(redrawn, tl.minimum(first + TILES, num_tiles), first)
        for tile in range(first, end):
            total = tl.zeros((), tl.int64)
            # Where p has no share no token has a mass at the row's reference.
            if tl.load(p.summary.share + (row * (num_drafts + 1) + i) * num_tiles + tile) != 0:
                rho = _residual(
                    p, q, drafts, row, i, tile, num_drafts, num_tiles, DEFINING, LISTS, DRAFTED, DRAFT_LISTS
                )  # fmt: skip
                total = tl.sum(rho)
            tl.store(sums + row * num_tiles + tile, total)


@triton.jit(do_not_specialize=["length", "seed", "position", "num_drafts"])
def verdict_kernel(
    p,
    q,
    drafts,
    lengths,
    row_valid,
    sums,
    tokens,
    num_accepted,
    status,
    length: tl.int64,
    seed: tl.int64,
    position: tl.int64,
    num_drafts: tl.int32,
    num_tiles,
    DEFINING: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    DRAFTED: tl.constexpr,
    DRAFT_LISTS: tl.constexpr,
    KP: tl.constexpr,
    P: tl.constexpr,
):
    """Program `row` writes its results."""
    row = tl.program_id(0).to(tl.int64)
    length = load_integer(length, lengths, row)
    seed, position = seed_and_position(p, seed, position, row)
    first, is_valid, token = tl.zeros((), tl.int32), tl.full((), 0, tl.int1), tl.full((), -1, tl.int32)
    if tl.load(row_valid + row) != 0:
        first, is_valid, redrawn = decide(p, q, drafts, row, length, num_drafts, seed, position, GREEDY, DRAFTED, KP)
        if is_valid:
            token = tl.load(p.summary.token + row * (num_drafts + 1) + first)
        if not GREEDY:  # noqa: SIM102
            if redrawn:
                tiles = tl.arange(0, P)
                share = tl.load(sums + row * num_tiles + tiles, mask=tiles < num_tiles, other=0).to(tl.uint64)
                total = tl.sum(share)
                # An empty residual (p exceeds q nowhere by a unit) leaves the token that was drawn from p.
                if total > 0:
                    rest = tl.umulhi(random_bits(seed, position + first.to(tl.uint64), RESIDUAL), total)
                    running = tl.cumsum(share, axis=0)
                    tile = tl.min(tl.where(running > rest, tiles, P - 1))
                    rest -= tl.sum(tl.where(tiles == tile, running - share, 0))
                    rho = _residual(
                        p, q, drafts, row, first, tile, num_drafts, num_tiles, DEFINING, LISTS, DRAFTED, DRAFT_LISTS
                    )  # fmt: skip
                    within = tl.cumsum(rho, axis=0).to(tl.uint64)
                    token = tile * TILE + tl.min(tl.where(within > rest, tl.arange(0, TILE), TILE - 1))
    i = tl.arange(0, KP)
    draft = tl.load(drafts + row * num_drafts + i, mask=i < first, other=-1)
    found = tl.where(i == first, token.to(tl.int64), draft)
    tl.store(tokens + row * (num_drafts + 1) + i, found, mask=i <= num_drafts)
    tl.store(num_accepted + row, first.to(tl.int64))
    tl.store(status + row, tl.where(is_valid, 0, 1))
