"""The tokens that a program of scoring holds, and a distribution's logits of them."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.mix import finite_model_logits, load_model, load_models, logits_of, scaled
from eft_ext.ops.triton.common.options import mixture_is_valid

PART = tl.constexpr(256)  # consecutive tokens, of which a warp keeps a share
PARTS = tl.constexpr(4)  # of a tile, and warps of a program that reads one
SHARE, CHANGE = tl.constexpr(5), tl.constexpr(4)  # words of workspace.py


@triton.jit
def parts_of(tile):
    """The parts of a tile of 1024, [PARTS]."""
    return tile * PARTS + tl.arange(0, PARTS)


@triton.jit
def tokens_of(parts):
    """Their ids [parts, PART]."""
    return parts[:, None] * PART + tl.arange(0, PART)[None, :]


@triton.jit
def word_index():
    """Lane i of a part's warp writes its word i."""
    return tl.arange(0, 32)[None, :]


@triton.jit
def with_word(words, i: tl.constexpr, value):
    """words: [PARTS, 32], value: [PARTS]. Values stay in their warp and go out together: stored one by one, Triton
    would send each through shared memory."""
    return tl.where(word_index() == i, value[:, None], words)


@triton.jit
def store_words(place, parts, words, NUMBER: tl.constexpr):
    tl.store(place + parts[:, None] * NUMBER + word_index(), words, mask=word_index() < NUMBER)


@triton.jit
def load_word(place, parts, num_parts, i, NUMBER: tl.constexpr, other):
    """Word i of each part, [P]."""
    return tl.load(place + parts * NUMBER + i, mask=parts < num_parts, other=other)


@triton.jit
def is_scored(mix, row, target, ignore_index, summaries):
    """True where the row is read at all: its target is a token, its options are numbers, its models defined."""
    scored = (target != ignore_index) & (target >= 0) & (target < mix.vocab_size)
    scored &= mixture_is_valid(mix, row)
    if summaries.defined is not None:
        scored &= tl.load(summaries.defined + row) != 0
    return scored


@triton.jit
def nucleus_without_delta(summaries, row):
    """The nucleus of a row (conservative.py), before the delta of own_tokens.py is known."""
    if summaries.defined is None:
        return (0.0, 0, 0.0, None)
    else:
        return (
            tl.load(summaries.nucleus_cutoff + row),
            tl.load(summaries.nucleus_last + row),
            tl.load(summaries.nucleus_delta + row),
            None,
        )


@triton.jit
def nucleus_of(summaries, row):
    """The same with that delta, where a model has tokens of its own."""
    nucleus = nucleus_without_delta(summaries, row)
    if summaries.own_delta is None:
        return nucleus
    else:
        return nucleus[0], nucleus[1], nucleus[2], tl.load(summaries.own_delta + row)


@triton.jit
def mixture_logits(mix, row, raw, ids, nucleus, SOURCE: tl.constexpr, tile=None):
    """The mixture's: -inf where excluded, +inf for what makes the row invalid (NaN, +inf)."""
    z, excluded = logits_of(mix, row, raw, ids, nucleus, SOURCE, tile)
    return scaled(z, excluded, 1.0)


@triton.jit
def logits_in(mix, row, ids, nucleus, d, SOURCE: tl.constexpr):
    """Distribution d's logits, read again: model d's own, or behind the models the mixture's."""
    v = ids.to(tl.float32)  # of this shape
    for k in tl.static_range(len(mix.logits)):
        if d == k:
            v = finite_model_logits(mix, load_model(mix, row, ids, k), ids)
    if d == len(mix.logits):
        v = mixture_logits(mix, row, load_models(mix, row, ids), ids, nucleus, SOURCE)
    return v
