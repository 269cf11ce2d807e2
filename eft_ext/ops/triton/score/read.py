"""The first read: every part's shares of the K + 1 distributions."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.mix import MIXTURE, REWEIGHTED, finite_model_logits, load_models
from eft_ext.ops.triton.score.parts import (
    PART,
    PARTS,
    SHARE,
    is_scored,
    mixture_logits,
    nucleus_of,
    parts_of,
    store_words,
    tokens_of,
    with_word,
)
from eft_ext.ops.triton.score.sums import next_up, share_of


@triton.jit
def _with_share(words, d: tl.constexpr, v, at_target, parts, target):
    """Distribution d's words among all (workspace.py)."""
    top = tl.max(v, axis=1)
    lower, weighted, squares, at_top = share_of(v, top)
    least = tl.where(parts < target // PART, at_target, next_up(at_target))
    counts = tl.sum(tl.where(at_top, 1, 0) + tl.where(v >= least[:, None], 65536, 0), axis=1)
    words = with_word(words, SHARE * d, top)
    words = with_word(words, SHARE * d + 1, lower)
    words = with_word(words, SHARE * d + 2, weighted)
    words = with_word(words, SHARE * d + 3, squares)
    return with_word(words, SHARE * d + 4, counts.to(tl.float32, bitcast=True))


@triton.jit(do_not_specialize=["ignore_index"])
def score_read_kernel(
    mix, targets, ignore_index: tl.int64, work, num_tiles, num_slices, TILES: tl.constexpr, DEFINING: tl.constexpr
):
    """Program (row, slice) keeps the parts of TILES tiles; rows without statistics are not read."""
    SOURCE: tl.constexpr = MIXTURE if DEFINING < 0 else REWEIGHTED + DEFINING
    K: tl.constexpr = len(mix.logits)
    program = tl.program_id(0)
    row = (program // num_slices).to(tl.int64)
    first = (program % num_slices) * TILES
    wanted = tl.load(targets + row)
    if is_scored(mix, row, wanted, ignore_index, work.summaries):
        target = wanted.to(tl.int32)
        nucleus = nucleus_of(work.summaries, row)
        own = load_models(mix, row, target)
        of_mixture = mixture_logits(mix, row, own, target, nucleus, SOURCE)
        shares = work.shares + row * num_tiles * (PARTS * (K + 1) * SHARE)
        for tile in range(first, tl.minimum(first + TILES, num_tiles)):
            parts = parts_of(tile)
            ids = tokens_of(parts)
            raw = load_models(mix, row, ids)
            words = tl.zeros([PARTS, 32], tl.float32)
            for k in tl.static_range(K):
                of_model = finite_model_logits(mix, own[k], target)
                words = _with_share(words, k, finite_model_logits(mix, raw[k], ids), of_model, parts, target)
            z = mixture_logits(mix, row, raw, ids, nucleus, SOURCE, tile)
            words = _with_share(words, K, z, of_mixture, parts, target)
            store_words(shares, parts, words, (K + 1) * SHARE)
