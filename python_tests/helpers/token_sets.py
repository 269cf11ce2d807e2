"""Hypothesis strategies for tokens that a call of the step leaves out or treats in a way of their own."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from eft_ext.ops import SpecialTokens


@st.composite
def special_tokens(draw: st.DrawFn, count: int, vocab: int) -> SpecialTokens:
    """Tokens that the models do not share: a few anywhere, or all of them."""
    edges = st.sampled_from((0, 31, 32, 1023, 1024, vocab - 1, vocab, vocab + 5000))
    ids = st.one_of(edges, st.integers(0, max(0, vocab - 1)))
    own = {*draw(st.lists(ids, max_size=5))}
    never = {*draw(st.lists(ids, max_size=5))}
    if draw(st.integers(1, 16)) == 16:
        own = {*range(vocab)}
    return SpecialTokens(tuple(own), tuple(never - own), draw(st.integers(0, count - 1)))


@st.composite
def bitmasks(draw: st.DrawFn, batch: int, vocab: int) -> Tensor:
    """Bitmasks [B, ceil(V/32)]: dense, sparse, empty, full; in a wider tensor whose other words are set."""
    words = -(-vocab // 32)
    kind = draw(st.sampled_from(("dense", "dense", "sparse", "full", "last", "empty")))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    bits = np.zeros((batch, words * 32), dtype=np.uint8)
    if kind == "dense":
        bits = rng.integers(0, 2, bits.shape, dtype=np.uint8)
    elif kind == "sparse":
        bits = (rng.random(bits.shape) < 0.01).astype(np.uint8)
    elif kind == "full":
        bits[:] = 1
    elif kind == "last":
        bits[:, vocab - 1 :] = 1  # with bits past the end, which mean nothing
    packed = np.packbits(bits, axis=1, bitorder="little").view("<i4")
    pad = draw(st.sampled_from((0, 3)))
    wide = torch.full((batch, words + pad), -1, dtype=torch.int32)
    wide[:, :words] = torch.from_numpy(packed.copy())
    return wide
