"""Every error of numerics.md §12: it names the argument, what was expected and what came."""

import pytest
import torch

from eft_ext.ops import combine, fused_mix, fused_score, fused_step, reference

X = torch.zeros(2, 10)
LOGITS = (X, X, X)
WHERE = {"seed": 1, "position": 0}


def replaced(k, x):
    return tuple(x if i == k else X for i in range(3))


@pytest.mark.parametrize(
    ("logits", "error", "match"),
    [
        (
            replaced(0, torch.zeros(10)),
            ValueError,
            r"large: expected a tensor \[batch, vocab\], got shape \[10\]",
        ),
        (replaced(1, torch.zeros(2, 1, 10)), ValueError, r"tuned: .*\[2, 1, 10\]"),
        (replaced(1, torch.zeros(3, 10)), ValueError, r"tuned: expected 2 rows as in large, got 3"),
        (
            replaced(2, torch.zeros(2, 10).double()),
            TypeError,
            "base: expected bfloat16, float16 or float32, got torch.float64",
        ),
        (replaced(2, torch.zeros(2, 10, dtype=torch.int64)), TypeError, "base: .*int64"),
        (
            replaced(2, torch.zeros(2, 10, device="meta")),
            ValueError,
            "base: expected device cpu as large, got meta",
        ),
        (
            replaced(0, torch.zeros(10, 2).T),
            ValueError,
            r"large: expected a contiguous last dimension, got strides \[1, 2\]",
        ),
        ((torch.zeros(0, 10),) * 3, ValueError, "large: expected at least one row"),
        ((torch.zeros(2, 0),) * 3, ValueError, "large: expected at least one row and one token"),
        (replaced(1, X.to_sparse()), TypeError, "tuned: expected a dense tensor"),
        (replaced(1, [[0.0]]), TypeError, "tuned: expected a tensor .*, got list"),
    ],
)
def test_logits(logits, error, match):
    with pytest.raises(error, match=match):
        fused_step(*logits, **WHERE)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"top_p": 1.5}, ValueError, r"top_p: expected a finite number in \[0, 1\], got 1.5"),
        ({"top_p": -0.1}, ValueError, "top_p"),
        ({"top_p": float("nan")}, ValueError, "top_p.*nan"),
        ({"min_p": 2}, ValueError, "min_p.*got 2"),
        ({"temperature": -1.0}, ValueError, "temperature.*got -1"),
        ({"temperature": float("inf")}, ValueError, "temperature.*got inf"),
        ({"temperature": "hot"}, TypeError, "temperature: expected a number or a tensor .*, got str"),
        ({"top_k": -1}, ValueError, "top_k: expected an integer of at least 0, got -1"),
        ({"top_k": 2.5}, TypeError, "top_k: expected an integer .*, got float"),
        (
            {"top_p": torch.ones(3)},
            ValueError,
            r"top_p: expected a scalar or a tensor \[2\], got shape \[3\]",
        ),
        ({"top_k": torch.ones(2)}, TypeError, "top_k: expected an integer tensor, got torch.float32"),
        ({"temperature": torch.ones(2, device="meta")}, ValueError, "temperature: expected a tensor on cpu"),
        ({"beta": float("nan")}, ValueError, "beta"),
        ({"beta": 1.0, "scale": 1.0}, ValueError, "scale: expected none beside beta"),
        (
            {"beta": 1.0, "conservative_top_p": 0.9},
            ValueError,
            "conservative_top_p: expected the form of scale, got beta",
        ),
        ({"conservative_top_p": 1.1}, ValueError, "conservative_top_p"),
        ({"conservative_top_p": 0.9, "conservative_set": "small"}, ValueError, "conservative_set: .*'small'"),
        (
            {"conservative_top_p": 0.9, "conservative_outside": "lose"},
            ValueError,
            "conservative_outside: .*'lose'",
        ),
        ({"vocab_size": 11}, ValueError, "vocab_size: expected 1 to 10, the width of large, got 11"),
        ({"vocab_size": 0}, ValueError, "vocab_size"),
        ({"vocab_size": 2.0}, TypeError, "vocab_size: expected an integer, got float"),
        ({"bias": torch.zeros(9)}, ValueError, r"bias: expected shape \[10\] or \[2, 10\], got \[9\]"),
        ({"bias": torch.zeros(10).half()}, TypeError, "bias: expected a float32 tensor, got torch.float16"),
        (
            {"token_bitmask": torch.zeros(2, 1)},
            TypeError,
            "token_bitmask: expected an int32 bitmask, got torch.float32",
        ),
        (
            {"token_bitmask": torch.zeros(1, 1, dtype=torch.int32)},
            ValueError,
            r"token_bitmask: expected shape \[2, 1\], got \[1, 1\]",
        ),
        (
            {"seed": 1, "position": None},
            ValueError,
            "position: expected the number of tokens .*, got None beside a seed",
        ),
        ({"seed": 2**64}, ValueError, "seed: expected a 64-bit integer"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "generator: expected none beside a seed"),
        ({"position": -1}, ValueError, "position: expected an integer of at least 0, got -1"),
        ({"backend": "gpu"}, ValueError, "backend: expected 'auto' or one of .*, got 'gpu'"),
        (
            {"out": torch.zeros(2)},
            ValueError,
            r"out: expected torch.int64 \[2\] on cpu, got torch.float32 \[2\]",
        ),
        ({"out": torch.zeros(3, dtype=torch.int64)}, ValueError, "out"),
        ({"top_logprobs": 3}, ValueError, "top_logprobs: expected return_details=True"),
        ({"top_logprobs": -1, "return_details": True}, ValueError, "top_logprobs: expected an integer"),
        ({"workspace": 3}, TypeError, "workspace"),
        ({"generator": 5, "seed": None}, TypeError, "generator: expected a torch.Generator, got int"),
        ({"details_out": 5}, TypeError, "details_out: expected StepDetails of tensors, got int"),
    ],
)
def test_options(options, error, match):
    with pytest.raises(error, match=match):
        fused_step(*LOGITS, **{**WHERE, **options})


def test_missing_backends_say_what_enables_them():
    with pytest.raises(RuntimeError, match="'triton' is not usable here: .*; to enable it: "):
        fused_step(*LOGITS, **WHERE, backend="triton")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="'cuda' is not usable here: .*; to enable it: "):
            fused_step(*LOGITS, **WHERE, backend="cuda")


def test_mix_and_combine():
    with pytest.raises(ValueError, match="logits: expected 1 to 4 tensors, got 5"):
        fused_mix([X] * 5, [1.0] * 5)
    with pytest.raises(ValueError, match="logits: expected 1 to 4 tensors, got 0"):
        fused_mix([], [])
    with pytest.raises(TypeError, match="logits: expected a sequence"):
        fused_mix(X, [1.0])
    with pytest.raises(TypeError, match="weights: expected 2 numbers, or a tensor, got float"):
        fused_mix([X, X], 1.0)
    with pytest.raises(TypeError, match="logits: expected a sequence .*, got int"):
        fused_mix(3, [1.0])
    with pytest.raises(ValueError, match="weights: expected 2, one for each model, got 1"):
        fused_mix([X, X], [1.0])
    with pytest.raises(ValueError, match=r"weights: expected shape \[2\] or \[2, 2\], got \[3\]"):
        fused_mix([X, X], torch.ones(3))
    with pytest.raises(ValueError, match="conservative_top_p: expected large, tuned and base, got 2 models"):
        combine([X, X], [1.0, 1.0], conservative_top_p=0.9)


def test_vocabularies_whose_mass_would_not_fit():
    """Masses of 2^24 equal tokens wrap at 64 bits: an error at every entry, not token 0 for ever."""
    wide = torch.zeros(1, 2**22 + 1, dtype=torch.float16)
    for call in (
        lambda: fused_step(wide, wide, wide, seed=0, position=0),
        lambda: fused_mix([wide], [1.0], seed=0, position=0, backend="reference"),
        lambda: combine([wide], [1.0]),
        lambda: fused_score(wide, wide, wide, torch.tensor([1])),
        lambda: reference.step([wide], [1.0], seed=0, position=0),
        lambda: reference.combine([wide], [1.0]),
    ):
        with pytest.raises(ValueError, match=r"vocab_size: expected at most 4194304 \(2\^22\).*, got 4194305"):
            call()
    assert 0 < fused_mix([wide], [1.0], vocab_size=2**22, seed=0, position=0).item() < 2**22
