"""The second launch: one program a row merges its tiles, filters and draws."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY, LN_2, log2
from eft_ext.ops.triton.common.conservative import reweight_row
from eft_ext.ops.triton.common.draw import draw
from eft_ext.ops.triton.common.filters import apply_filters
from eft_ext.ops.triton.common.mix import MIXTURE, REWEIGHTED
from eft_ext.ops.triton.common.options import (
    is_greedy,
    load_integer,
    load_real,
    mixture_is_valid,
    options_are_valid,
    scale_of,
)
from eft_ext.ops.triton.common.own_tokens import store_special_tiles
from eft_ext.ops.triton.common.philox import SAMPLE, random_bits, row_seed
from eft_ext.ops.triton.step.details import write_details, write_invalid


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
    nucleus,
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
        number = tl.load(work.mixture.num_tokens + at, mask=tiles < num_tiles, other=0)
    cutoff = tl.full((), -INFINITY, tl.float32)
    kept_ties = tl.zeros([P], tl.int32)
    greedy = is_greedy(load_real(sampling.temperature, row))
    if LISTS:  # noqa: SIM102 (the outer one is the compiler's)
        if ~greedy:
            cutoff, mass, kept_ties, number = apply_filters(
                mass, number, largest, top, mix, sampling, top_k, row, row, c, nucleus, work, num_tiles,
                SOURCE, TOP_K, TOP_P, P, SLOTS, GROUP,
            )  # fmt: skip
    bits = random_bits(seed, position.to(tl.uint64), SAMPLE)
    token, t, total = draw(bits, greedy, largest, cutoff, mass, kept_ties, top, mix, row, c, nucleus, SOURCE, P)
    tl.store(out + row, token.to(tl.int64))
    if DETAILS:
        log = log2(tl.maximum(total, 1).to(tl.float64)) - 40.0
        logprob = (((t.to(tl.float64) - tl.floor(largest).to(tl.float64)) - log) * LN_2).to(tl.float32)
        # The mass is within 1.5e-7 of 2^t: a token that is alone must not come out above 0.
        logprob = tl.where(greedy, 0.0, tl.minimum(logprob, 0.0))
        kept = tl.where(greedy, 1, tl.sum(number))
        write_details(details, token, logprob, kept, mix, row, nucleus, work, num_tiles, SOURCE, P)


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

    P: the number of tiles rounded up to a power of two. DEFINING as in `store_summaries`; with conservative
    re-weighting this launch reads the row a second time, to store the mixture's tiles; where a model has tokens of its
    own, it reads their tiles again.
    """
    SOURCE: tl.constexpr = MIXTURE if DEFINING < 0 else REWEIGHTED + DEFINING
    row = tl.program_id(0).to(tl.int64)
    top_k = load_integer(top_k, sampling.top_k_rows, row)
    position = load_integer(position, sampling.position_rows, row)
    seed = load_integer(seed, sampling.seed_rows, row).to(tl.uint64)
    if sampling.seed_rows is None:
        seed = row_seed(seed, row)
    valid = mixture_is_valid(mix, row) & options_are_valid(sampling, top_k, position, row)
    c = scale_of(load_real(sampling.temperature, row))

    if DEFINING >= 0:
        defined, nucleus = reweight_row(
            mix, row, c, work, num_tiles, DEFINING, LISTS, GREEDY, DETAILS, P, SLOTS, GROUP
        )  # fmt: skip
        valid &= defined
    else:
        nucleus = (0.0, 0, 0.0, None)
    nucleus = store_special_tiles(
        nucleus, mix, row, c, work, num_tiles, SOURCE, LISTS, GREEDY, DETAILS, P, SLOTS
    )  # fmt: skip

    tiles = tl.arange(0, P)
    top = tl.load(work.mixture.top + row * num_tiles + tiles, mask=tiles < num_tiles, other=-INFINITY)
    largest = tl.max(top)
    valid &= (largest > -INFINITY) & (largest < INFINITY)
    if valid:
        _sample(
            out, details, largest, top, mix, sampling, top_k, seed, position, row, c, nucleus, work, num_tiles,
            SOURCE, LISTS, GREEDY, TOP_K, TOP_P, DETAILS, P, SLOTS, GROUP,
        )  # fmt: skip
    else:
        tl.store(out + row, -1)
        if DETAILS:
            write_invalid(details, row, len(mix.logits))
