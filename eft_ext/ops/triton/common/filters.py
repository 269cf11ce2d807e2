"""top_k, top_p and min_p of a row, all its tiles in one program."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY, mass_target, token_mass
from eft_ext.ops.triton.common.draw import total_mass
from eft_ext.ops.triton.common.options import fixed_top_p, load_real, min_p_offset
from eft_ext.ops.triton.common.search import ALL_TIES, load_lists, search, survivor_masses


@triton.jit
def apply_filters(
    mass,
    number,
    largest,
    top,
    mix,
    sampling,
    top_k,
    row,
    flat_row,
    c,
    nucleus,
    work,
    num_tiles,
    SOURCE: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    P: tl.constexpr,
    SLOTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """top_k, top_p and min_p, each a cutoff in the rank: the survivors are the tokens with t > cutoff and the first
    `ties` of those at it. mass, number: [P], of all tokens, of the survivors on return. row: of the batch; flat_row: of
    the mixture and the workspace (mix.py)."""
    tokens, group_listed_above = load_lists(work.mixture, flat_row, num_tiles, P, SLOTS, GROUP)
    reference = tl.floor(largest)
    cutoff, ties = tl.full((), -INFINITY, tl.float32), tl.full((), ALL_TIES, tl.int32)
    kept_ties = tl.zeros([P], tl.int32)
    p_fix = fixed_top_p(sampling.top_p, row)
    at_least = largest + min_p_offset(load_real(sampling.min_p, row))
    # One loop, so that the search is compiled once: top_k, then top_p and min_p.
    for stage in range(0 if TOP_K else 1, 2):
        by_mass = stage == 1
        on = tl.where(by_mass, p_fix >> 32 == 0, (top_k > 0) & (top_k < mix.vocab_size))
        if on & (TOP_K or TOP_P):
            # Rank 0 stays even where p is 0, as it does for a target of one unit.
            mass_wanted = tl.maximum(mass_target(p_fix, total_mass(mass, reference, top)), 1)
            target = tl.where(by_mass, mass_wanted, top_k.to(tl.uint64))
            found, above = search(
                target, by_mass, largest, tokens, group_listed_above, mix, flat_row, c, nucleus, SOURCE, P, GROUP
            )
            if (found >= cutoff) & (found > -INFINITY):
                w = tl.maximum(token_mass(found, reference), 1)
                cutoff = found
                ties = tl.where(by_mass, ((target - above + w - 1) // w).to(tl.int32), ALL_TIES)
        if by_mass & (at_least > cutoff):
            cutoff = at_least
            ties = tl.full((), ALL_TIES, tl.int32)
        if cutoff > -INFINITY:
            mass, kept_ties, number = survivor_masses(
                cutoff,
                ties,
                top,
                tokens,
                group_listed_above,
                work.mixture,
                flat_row,
                num_tiles,
                mix,
                flat_row,
                c,
                nucleus,
                SOURCE,
                P,
                GROUP,
            )
    return cutoff, mass, kept_ties, number
