"""The random bits of a draw: Philox4x32-10 keyed by a row's seed; SplitMix64 spreads one seed over rows.

Sources: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3" (Random123);
Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
"""

from __future__ import annotations

MASK_32 = 0xFFFFFFFF
MASK_64 = 0xFFFFFFFFFFFFFFFF

SAMPLE, ACCEPT, RESIDUAL = 0, 1, 2  # the purposes of a draw


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Ten rounds of Philox4x32: four 32-bit words from a counter of four and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK_32, (p0 >> 32) ^ c3 ^ k1, p0 & MASK_32
        k0, k1 = (k0 + 0x9E3779B9) & MASK_32, (k1 + 0xBB67AE85) & MASK_32
    return c0, c1, c2, c3


def random_bits(seed: int, position: int, *, draw: int = 0, purpose: int = SAMPLE) -> int:
    """64 random bits of a row: `seed` is the row's own key, `position` the tokens it has generated so far."""
    counter = (position & MASK_32, (position >> 32) & MASK_32, draw, purpose)
    out = philox4x32(counter, (seed & MASK_32, (seed >> 32) & MASK_32))
    return out[0] | out[1] << 32


def row_seed(seed: int, row: int) -> int:
    """The key of row `row` (from 0) under one scalar seed: the (row + 1)-th SplitMix64 output, a uint64."""
    x = (seed + (row + 1) * 0x9E3779B97F4A7C15) & MASK_64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK_64
    return x ^ (x >> 31)
