"""The C++ step against the reference on every kind of row, dtype and set of options, in real vocabularies."""

import itertools

import pytest
import torch

from eft_ext.ops import fused_mix
from eft_ext.ops.backends import native
from python_tests.helpers.rows import ROWS, STEP_OPTIONS, models
from python_tests.helpers.slow_params import slowly
from python_tests.ops.test_step import DTYPES, assert_same, both

WIDTHS = {torch.float32: (1, 31, 2500), torch.bfloat16: (2, 2500), torch.float16: (2500,)}


@pytest.mark.parametrize(
    ("rows", "dtype", "vocabs"),
    [
        # Every kind of row in one dtype, each dtype in turn; the other two with what is slow.
        pytest.param(rows, dtype, WIDTHS[dtype], marks=() if i % 3 == j else pytest.mark.slow)
        for i, rows in enumerate(ROWS)
        for j, dtype in enumerate(WIDTHS)
    ],
)
def test_every_row_and_option_draws_the_reference_token(rows, dtype, vocabs):
    for vocab, (name, options) in itertools.product(vocabs, STEP_OPTIONS.items()):
        logits = models(rows, 3, 2, vocab, dtype)
        got, want = both(logits, [1.0, 1.0, -1.0], **options)
        assert_same(got, want, f"{rows} {dtype} V={vocab} {name}")


LARGE = slowly(32016, 128256, 151936, 256000)


@pytest.mark.parametrize("vocab", [1000, 1024, 1025, 32000, *LARGE])
def test_real_vocabularies(vocab):
    logits = models("lm", 3, 2, vocab, torch.bfloat16)
    for name in ("plain", "greedy", "top_p_90", "top_k_50", "all"):
        got, want = both(logits, [1.0, 1.0, -1.0], **STEP_OPTIONS[name])
        assert_same(got, want, f"V={vocab} {name}")


@pytest.mark.parametrize("isa", list(native.ISA)[1 : 1 + native._native.cpu_best_isa()])
def test_every_instruction_set_draws_the_same(isa):
    native.force_isa(isa)
    try:
        for rows, options in itertools.product(
            ("lm", "flat", "bf16_ties", "masked", "cliffs"), ("plain", "all", "top_p_90", "greedy")
        ):
            for dtype in DTYPES:
                got, want = both(models(rows, 3, 2, 2500, dtype), [1.0, 1.0, -1.0], **STEP_OPTIONS[options])
                assert_same(got, want, f"{isa} {rows} {options}")
    finally:
        native.force_isa("auto")


def test_temperatures_are_greedy_after_rounding():
    """2^-20·(1 - 2^-26) is 2^-20 in fp32: it draws, as a number and as a tensor, and without a seed too."""
    flat, heat = [torch.zeros(1, 4096)], 2.0**-20 * (1 - 2.0**-26)
    for backend in ("cpu", "reference"):
        torch.manual_seed(0)
        assert len({fused_mix(flat, [1.0], temperature=heat, backend=backend).item() for _ in range(8)}) > 4
        seeded = {"seed": 3, "position": 1, "backend": backend}
        drawn = fused_mix(flat, [1.0], temperature=torch.tensor([heat]), **seeded)
        assert torch.equal(drawn, fused_mix(flat, [1.0], temperature=heat, **seeded))
        assert torch.equal(drawn, fused_mix(flat, [1.0], temperature=2.0**-20, **seeded))
        below = 2.0**-20 * (1 - 2.0**-24)
        assert fused_mix(flat, [1.0], temperature=below, backend=backend).item() == 0
