"""The random bits of a draw: Philox4x32-10 and SplitMix64 (eft_ext/ops/reference/philox.py names the sources)."""

import triton
import triton.language as tl

SAMPLE, ACCEPT, RESIDUAL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def random_bits(seed, position, purpose):
    """64 bits for a purpose, draw 0; seed and position are uint64."""
    c0, c1 = position & 0xFFFFFFFF, position >> 32
    c2, c3 = position * 0, position * 0 + purpose
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in tl.static_range(10):
        a = c0 * 0xD2511F53  # 32 x 32 bits
        b = c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c3 ^ k1, a & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return (c1 << 32) | c0


@triton.jit
def row_seed(seed, row):
    """The (row + 1)-th output of SplitMix64 started at `seed`, uint64."""
    z = seed + (row.to(tl.uint64) + 1) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)
