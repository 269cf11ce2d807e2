"""The first two launches of a verification: tiles of p and q are summarised, then the masses at every position."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY, TILE, tile_shift
from eft_ext.ops.triton.common.conservative import reweight_row
from eft_ext.ops.triton.common.draw import draw, kept_mass, total_mass
from eft_ext.ops.triton.common.filters import apply_filters
from eft_ext.ops.triton.common.mix import MIXTURE, REWEIGHTED, load_models, row_t
from eft_ext.ops.triton.common.options import (
    is_greedy,
    load_integer,
    load_real,
    mixture_is_valid,
    options_are_valid,
    scale_of,
)
from eft_ext.ops.triton.common.own_tokens import store_special_tiles
from eft_ext.ops.triton.common.philox import RESIDUAL, SAMPLE, random_bits
from eft_ext.ops.triton.common.tile_summary import store_summaries, store_tile
from eft_ext.ops.triton.verify.accept import is_certain_draft, seed_and_position


@triton.jit(do_not_specialize=["length", "num_drafts"])
def verify_slices_kernel(
    p,
    q,
    lengths,
    length: tl.int64,
    num_drafts: tl.int32,
    num_tiles,
    num_slices,
    TILES: tl.constexpr,
    SLOTS: tl.constexpr,
    DEFINING: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    DRAFTED: tl.constexpr,
    DRAFT_LISTS: tl.constexpr,
    SHARED: tl.constexpr,
):
    """Program (row, position, slice) keeps TILES tiles of p, and of q where it may be looked at.

    SHARED: the model of the mixture whose logits q's are, or -1. The other constants are those of `slices_kernel`.
    """
    program = tl.program_id(0)
    flat_row = program // num_slices
    row, i = (flat_row // (num_drafts + 1)).to(tl.int64), flat_row % (num_drafts + 1)
    flat_row = flat_row.to(tl.int64)
    length = load_integer(length, lengths, row)
    first = (program % num_slices) * TILES
    end = tl.where(i <= length, tl.minimum(first + TILES, num_tiles), first)
    temperature = load_real(p.sampling.temperature, row)
    c = scale_of(temperature)
    draft_c = scale_of(load_real(q.sampling.temperature, row))
    drawn = (i < length) & (i < num_drafts) & ~is_greedy(temperature) & ~is_certain_draft(q, row)
    for tile in range(first, end):
        ids = tile * TILE + tl.arange(0, TILE)
        raw = load_models(p.mix, flat_row, ids)
        store_summaries(p.mix, flat_row, raw, ids, tile, c, p.work, num_tiles, SLOTS, DEFINING, LISTS, GREEDY, False)
        if DRAFTED:  # noqa: SIM102 (the outer one is the compiler's)
            if drawn:
                flat_row_q = row * num_drafts + i
                own = (raw[SHARED],) if SHARED >= 0 else load_models(q.mix, flat_row_q, ids)
                at, none = flat_row_q * num_tiles + tile, (0.0, 0, 0.0, None)
                store_tile(
                    q.mix, flat_row_q, own, ids, tile, at, draft_c, none, q.work, SLOTS, MIXTURE, DRAFT_LISTS, False,
                    False,
                )  # fmt: skip


@triton.jit
def _row_is_valid(p, q, top_k, draft_top_k, position, length, num_drafts, row):
    valid = mixture_is_valid(p.mix, row) & options_are_valid(p.sampling, top_k, position, row)
    valid &= options_are_valid(q.sampling, draft_top_k, position, row)
    return valid & (length >= 0) & (length <= num_drafts)


@triton.jit
def _write_masses(
    dist,
    drafts,
    top_k,
    seed,
    position,
    purpose,
    row,
    i,
    flat_row,
    num_drafts,
    num_tiles,
    DEFINING: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    DRAWS: tl.constexpr,
    P: tl.constexpr,
    SLOTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Writes a flat row's summary; with DRAWS its token too. row: of the batch. What only the draw asks for is looked
    up behind the filters, which take all registers there are."""
    SOURCE: tl.constexpr = MIXTURE if DEFINING < 0 else REWEIGHTED + DEFINING
    temperature = load_real(dist.sampling.temperature, row)
    greedy, c = is_greedy(temperature), scale_of(temperature)
    valid = True
    if DEFINING >= 0:
        valid, nucleus = reweight_row(
            dist.mix, flat_row, c, dist.work, num_tiles, DEFINING, LISTS, GREEDY, False, P, SLOTS, GROUP
        )  # fmt: skip
        tl.store(dist.summary.nucleus_cutoff + flat_row, nucleus[0])
        tl.store(dist.summary.nucleus_last + flat_row, nucleus[1])
        tl.store(dist.summary.nucleus_delta + flat_row, nucleus[2])
    else:
        nucleus = (0.0, 0, 0.0, None)
    nucleus = store_special_tiles(
        nucleus, dist.mix, flat_row, c, dist.work, num_tiles, SOURCE, LISTS, GREEDY, False, P, SLOTS
    )  # fmt: skip
    if dist.mix.owner is not None:
        tl.store(dist.summary.own_delta + flat_row, nucleus[3])
    tiles = tl.arange(0, P)
    live = tiles < num_tiles
    top = tl.load(dist.work.mixture.top + flat_row * num_tiles + tiles, mask=live, other=-INFINITY)
    largest = tl.max(top)
    valid = valid & (largest > -INFINITY) & (largest < INFINITY)
    tl.store(dist.summary.valid + flat_row, valid.to(tl.int32))
    if valid:
        mass = tl.zeros([P], tl.uint64)
        if not GREEDY:
            mass = tl.load(dist.work.mixture.mass + flat_row * num_tiles + tiles, mask=live, other=0).to(tl.uint64)
        cutoff, kept_ties = tl.full((), -INFINITY, tl.float32), tl.zeros([P], tl.int32)
        number = tl.zeros([P], tl.int32)
        if LISTS:  # noqa: SIM102
            if ~greedy:
                cutoff, mass, kept_ties, number = apply_filters(
                    mass, number, largest, top, dist.mix, dist.sampling, top_k, row, flat_row, c, nucleus, dist.work,
                    num_tiles, SOURCE, TOP_K, TOP_P, P, SLOTS, GROUP,
                )  # fmt: skip
        reference = tl.floor(largest)
        if DRAWS:
            key, at = seed_and_position(dist, seed, position, row)
            bits = random_bits(key, at + i.to(tl.uint64), purpose)
            token = draw(
                bits, greedy, largest, cutoff, mass, kept_ties, top, dist.mix, flat_row, c, nucleus, SOURCE, P
            )[0]
            tl.store(dist.summary.token + flat_row, token)
        if not GREEDY:
            draft = tl.load(drafts + row * num_drafts + i, mask=i < num_drafts, other=0)
            draft = tl.minimum(tl.maximum(draft, 0), dist.mix.vocab_size - 1).to(tl.int32)
            ids = draft // TILE * TILE + tl.arange(0, TILE)
            ties = tl.sum(tl.where(tiles == draft // TILE, kept_ties, 0))
            w = kept_mass(row_t(dist.mix, flat_row, ids, c, nucleus, SOURCE, draft // TILE), cutoff, ties, reference)
            tl.store(dist.summary.mass + flat_row, tl.sum(tl.where(ids == draft, w, 0)).to(tl.int64))
            tl.store(dist.summary.cutoff + flat_row, cutoff)
            tl.store(dist.summary.reference + flat_row, reference)
            tl.store(dist.summary.total + flat_row, total_mass(mass, reference, top).to(tl.int64))
            if LISTS:
                tl.store(dist.summary.ties + flat_row * num_tiles + tiles, kept_ties, mask=live)
            if DRAWS:
                share = mass >> tile_shift(reference, tl.floor(top))
                tl.store(dist.summary.share + flat_row * num_tiles + tiles, share.to(tl.int64), mask=live)


@triton.jit(do_not_specialize=["top_k", "draft_top_k", "length", "seed", "position", "num_drafts", "num_flat_rows"])
def masses_kernel(
    p,
    q,
    drafts,
    lengths,
    row_valid,
    top_k: tl.int64,
    draft_top_k: tl.int64,
    length: tl.int64,
    seed: tl.int64,
    position: tl.int64,
    num_drafts: tl.int32,
    num_flat_rows: tl.int32,
    num_tiles,
    DEFINING: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    DRAFTED: tl.constexpr,
    DRAFT_LISTS: tl.constexpr,
    DRAFT_TOP_K: tl.constexpr,
    DRAFT_TOP_P: tl.constexpr,
    P: tl.constexpr,
    SLOTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Programs 0 to num_flat_rows - 1 take the flat rows of p, the others those of q. The first of a row writes if the
    row's options are valid."""
    program = tl.program_id(0)
    of_p = program < num_flat_rows
    flat_row = tl.where(of_p, program, program - num_flat_rows)
    positions = tl.where(of_p, num_drafts + 1, num_drafts)
    row, i = (flat_row // positions).to(tl.int64), flat_row % positions
    flat_row = flat_row.to(tl.int64)
    length = load_integer(length, lengths, row)
    top_k = load_integer(top_k, p.sampling.top_k_rows, row)
    draft_top_k = load_integer(draft_top_k, q.sampling.top_k_rows, row)
    at = load_integer(position, p.sampling.position_rows, row)
    valid = _row_is_valid(p, q, top_k, draft_top_k, at, length, num_drafts, row)
    if of_p:
        if i == 0:
            tl.store(row_valid + row, valid.to(tl.int32))
        if valid & (i <= length):
            purpose = tl.where(i < length, RESIDUAL, SAMPLE)
            _write_masses(
                p, drafts, top_k, seed, position, purpose, row, i, flat_row, num_drafts, num_tiles,
                DEFINING, LISTS, GREEDY, TOP_K, TOP_P, True, P, SLOTS, GROUP,
            )  # fmt: skip
    elif DRAFTED:
        drawn = ~is_greedy(load_real(p.sampling.temperature, row)) & ~is_certain_draft(q, row)
        if valid & (i < length) & drawn:
            _write_masses(
                q, drafts, draft_top_k, seed, position, SAMPLE, row, i, flat_row, num_drafts, num_tiles,
                -1, DRAFT_LISTS, False, DRAFT_TOP_K, DRAFT_TOP_P, False, P, SLOTS, GROUP,
            )  # fmt: skip
