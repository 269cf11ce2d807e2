"""The second launch: one program a row merges its tiles, filters and draws."""

import triton
import triton.language as tl

from eft_ext.ops.triton.arithmetic import INFINITY, LN_2, TILE, log2, mass_target, token_mass
from eft_ext.ops.triton.conservative import prepare
from eft_ext.ops.triton.details import write_details, write_invalid
from eft_ext.ops.triton.draw import draw, total_mass
from eft_ext.ops.triton.mix import MIXTURE, REWEIGHTED, load_models
from eft_ext.ops.triton.options import (
    integer,
    is_greedy,
    min_p_offset,
    mixture_is_valid,
    nucleus_size,
    options_are_valid,
    real,
    scale_of,
)
from eft_ext.ops.triton.philox import random_bits, row_seed
from eft_ext.ops.triton.search import ALL_TIES, load_lists, search, survivors
from eft_ext.ops.triton.slices import keep_tile


@triton.jit
def _filter(
    mass,
    number,
    largest,
    top,
    mix,
    sampling,
    top_k,
    row,
    c,
    area,
    work,
    num_tiles,
    SOURCE: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    P: tl.constexpr,
    SLOTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """top_k, top_p and min_p, each a limit in the rank: the survivors are the tokens with t > limit and the first
    `ties` of those at it. mass, number: [P], of all tokens, of the survivors on return."""
    tokens, group_left = load_lists(work.mixture, row, num_tiles, P, SLOTS, GROUP)
    reference = tl.floor(largest)
    limit, ties = tl.full((), -INFINITY, tl.float32), tl.full((), ALL_TIES, tl.int32)
    kept_ties = tl.zeros([P], tl.int32)
    p_fix = nucleus_size(sampling.top_p, row)
    at_least = largest + min_p_offset(real(sampling.min_p, row))
    # One loop, so that the search is compiled once: top_k, then top_p and min_p.
    for stage in range(0 if TOP_K else 1, 2):
        by_mass = stage == 1
        on = tl.where(by_mass, p_fix >> 32 == 0, (top_k > 0) & (top_k < mix.vocab_size))
        if on & (TOP_K or TOP_P):
            # Rank 0 stays even where p is 0, as it does for a target of one unit.
            nucleus = tl.maximum(mass_target(p_fix, total_mass(mass, reference, top)), 1)
            target = tl.where(by_mass, nucleus, top_k.to(tl.uint64))
            found, above = search(target, by_mass, largest, tokens, group_left, mix, row, c, area, SOURCE, P, GROUP)
            if (found >= limit) & (found > -INFINITY):
                w = tl.maximum(token_mass(found, reference), 1)
                limit = found
                ties = tl.where(by_mass, ((target - above + w - 1) // w).to(tl.int32), ALL_TIES)
        if by_mass & (at_least > limit):
            limit = at_least
            ties = tl.full((), ALL_TIES, tl.int32)
        if limit > -INFINITY:
            mass, kept_ties, number = survivors(
                limit, ties, top, tokens, group_left, work.mixture, row, num_tiles, mix, row, c, area, SOURCE, P, GROUP
            )
    return limit, mass, kept_ties, number


@triton.jit
def _sample(
    out,
    details,
    largest,
    top,
    mix,
    sampling,
    top_k,
    seed,
    position,
    row,
    c,
    area,
    work,
    num_tiles,
    SOURCE: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    DETAILS: tl.constexpr,
    P: tl.constexpr,
    SLOTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    tiles = tl.arange(0, P)
    at = row * num_tiles + tiles
    mass = tl.zeros([P], tl.uint64)
    if not GREEDY:
        mass = tl.load(work.mixture.mass + at, mask=tiles < num_tiles, other=0).to(tl.uint64)
    number = tl.zeros([P], tl.int32)
    if DETAILS:
        number = tl.load(work.mixture.number + at, mask=tiles < num_tiles, other=0)
    limit = tl.full((), -INFINITY, tl.float32)
    kept_ties = tl.zeros([P], tl.int32)
    greedy = is_greedy(real(sampling.temperature, row))
    if LISTS:  # noqa: SIM102 (the outer one is the compiler's)
        if ~greedy:
            limit, mass, kept_ties, number = _filter(
                mass, number, largest, top, mix, sampling, top_k, row, c, area, work, num_tiles,
                SOURCE, TOP_K, TOP_P, P, SLOTS, GROUP,
            )  # fmt: skip
    bits = random_bits(seed, position.to(tl.uint64))
    token, t, total = draw(bits, greedy, largest, limit, mass, kept_ties, top, mix, row, c, area, SOURCE, P)
    tl.store(out + row, token.to(tl.int64))
    if DETAILS:
        log = log2(tl.maximum(total, 1).to(tl.float64)) - 40.0
        logprob = (((t.to(tl.float64) - tl.floor(largest).to(tl.float64)) - log) * LN_2).to(tl.float32)
        # The mass is within 1.5e-7 of 2^t: a token that is alone must not come out above 0.
        logprob = tl.where(greedy, 0.0, tl.minimum(logprob, 0.0))
        kept = tl.where(greedy, 1, tl.sum(number))
        write_details(details, token, logprob, kept, mix, row, area, work, num_tiles, SOURCE, P)


# A new number must not mean a new kernel.
@triton.jit(do_not_specialize=["top_k", "seed", "position"])
def rows_kernel(
    mix,
    sampling,
    top_k: tl.int64,
    seed: tl.int64,
    position: tl.int64,
    work,
    out,
    details,
    num_tiles,
    DEFINING: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    DETAILS: tl.constexpr,
    P: tl.constexpr,
    SLOTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Program `row` writes its token, and its details.

    P: the number of tiles rounded up to a power of two. DEFINING as in `slices_kernel`; with conservative re-weighting
    this launch reads the row a second time, to keep the mixture's tiles.
    """
    SOURCE: tl.constexpr = MIXTURE if DEFINING < 0 else REWEIGHTED + DEFINING
    row = tl.program_id(0).to(tl.int64)
    top_k = integer(top_k, sampling.top_k_rows, row)
    position = integer(position, sampling.position_rows, row)
    seed = integer(seed, sampling.seed_rows, row).to(tl.uint64)
    if sampling.seed_rows is None:
        seed = row_seed(seed, row)
    valid = mixture_is_valid(mix, row) & options_are_valid(sampling, top_k, position, row)
    c = scale_of(real(sampling.temperature, row))

    if DEFINING >= 0:
        defined, area = prepare(mix, row, work, num_tiles, DEFINING, P, SLOTS, GROUP)
        valid &= defined
        for tile in range(0, num_tiles):
            ids = tile * TILE + tl.arange(0, TILE)
            raw = load_models(mix, row, ids)
            at = row * num_tiles + tile
            keep_tile(mix, row, raw, ids, at, c, area, work, SLOTS, SOURCE, LISTS, GREEDY, DETAILS)
        tl.debug_barrier()  # what the program's other threads have kept is read below
    else:
        area = (0.0, 0, 0.0)

    tiles = tl.arange(0, P)
    top = tl.load(work.mixture.top + row * num_tiles + tiles, mask=tiles < num_tiles, other=-INFINITY)
    largest = tl.max(top)
    valid &= (largest > -INFINITY) & (largest < INFINITY)
    if valid:
        _sample(
            out, details, largest, top, mix, sampling, top_k, seed, position, row, c, area, work, num_tiles,
            SOURCE, LISTS, GREEDY, TOP_K, TOP_P, DETAILS, P, SLOTS, GROUP,
        )  # fmt: skip
    else:
        tl.store(out + row, -1)
        if DETAILS:
            write_invalid(details, row, len(mix.logits))
