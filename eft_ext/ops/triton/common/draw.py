"""From 64 random bits to a token: tiles by ascending id, then the tokens of one tile, read again."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import TILE, tile_shift, token_mass
from eft_ext.ops.triton.common.mix import row_t


@triton.jit
def total_mass(mass, reference, top):
    """Z = sum of W_T >> (A - a_T), uint64. mass, top: [P]."""
    return tl.sum(mass >> tile_shift(reference, tl.floor(top)))


@triton.jit
def kept_mass(t, cutoff, ties, reference):
    """Masses at `reference` of a tile's tokens t [1024] by ascending id: those above the cutoff and the first `ties` at
    it; 0 of all others."""
    tie = t == cutoff
    kept = (t > cutoff) | (tie & (tl.cumsum(tie.to(tl.int32), axis=0) <= ties))
    return tl.where(kept, token_mass(t, reference), 0)


@triton.jit
def draw(
    bits,
    greedy,
    largest,
    cutoff,
    mass,
    kept_ties,
    top,
    mix,
    flat_row,
    c,
    nucleus,
    SOURCE: tl.constexpr,
    P: tl.constexpr,
):
    """The token id (int32), its t, and the survivors' mass S. mass, kept_ties, top: [P], as of `survivor_masses`."""
    tiles = tl.arange(0, P)
    shift = tile_shift(tl.floor(largest), tl.floor(top))
    share = mass >> shift
    total = tl.sum(share)
    rest, low = tl.umulhi(bits, total), bits * total
    running = tl.cumsum(share, axis=0)
    tile = tl.min(tl.where(tl.where(greedy, top == largest, running > rest), tiles, P - 1))
    chosen = tiles == tile
    rest -= tl.sum(tl.where(chosen, running - share, 0))
    d = tl.sum(tl.where(chosen, shift, 0))
    # What the shift had cut off comes from the product's low bits: low >> (64 - d), which is no shift for d = 0.
    rest = (rest << d) | ((low >> 1) >> (63 - d))

    ids = tile * TILE + tl.arange(0, TILE)
    t = row_t(mix, flat_row, ids, c, nucleus, SOURCE, tile)
    reference = tl.floor(tl.max(tl.where(chosen, top, float("-inf"))))
    ties = tl.sum(tl.where(chosen, kept_ties, 0))
    running = tl.cumsum(kept_mass(t, cutoff, ties, reference), axis=0)
    hit = tl.where(greedy, t == largest, running > rest)
    token = tl.min(tl.where(hit, ids, 0x7FFFFFFF))
    return token, tl.max(tl.where(ids == token, t, float("-inf"))), total
