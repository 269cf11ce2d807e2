"""Checks of tensors and options: every error names the argument, what was expected and what came.

Nothing here reads a device value, so nothing synchronises: a bad value inside an option tensor is found by the
kernel, which marks that row invalid (numerics.md §12).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

from eft_ext.ops.fork_safety import one_thread_if_forked
from eft_ext.ops.params import Integer, Real

DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
MAX_MODELS = 4
MAX_VOCAB = 1 << 22  # numerics.md §3
BEYOND_FLOAT32 = 3.4028235677973366e38  # the least number that rounds to its infinity
_INTEGER = (int, torch.SymInt)
_REAL = (float, torch.SymFloat, *_INTEGER)


def shape(x: Tensor) -> str:
    return f"{x.dtype} {list(x.shape)} on {x.device}"


def in_memory(name: str, x: Tensor) -> Tensor:
    """The tensor with its values at its address, where kernels read them.

    torch may keep a negation, or that all is zero, beside the memory, in the tensor's head. Every tensor that an
    operation reads passes here. (A conjugation is of complex numbers, which none takes.)
    """
    if torch.compiler.is_dynamo_compiling():
        return x  # what an operator is given torch writes out itself
    if x.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got {x.layout}")
    if not (x.is_neg() or x._is_zerotensor()):
        return x
    with one_thread_if_forked():
        return x.resolve_neg() if x.is_neg() else x.clone()


def check_logits(names: Sequence[str], logits: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """K tensors [B, V_k], bf16/fp16/fp32, one device, contiguous last dimension, 1 <= K <= 4; as they are in memory."""
    if not 1 <= len(logits) <= MAX_MODELS:
        raise ValueError(f"logits: expected 1 to {MAX_MODELS} tensors, got {len(logits)}")
    found: list[Tensor] = []
    for name, x in zip(names, logits, strict=True):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: expected a tensor [batch, vocab], got {type(x).__name__}")
        if x.dtype not in DTYPES:
            raise TypeError(f"{name}: expected bfloat16, float16 or float32, got {x.dtype}")
        x = in_memory(name, x)
        if x.dim() != 2:
            raise ValueError(f"{name}: expected a tensor [batch, vocab], got shape {list(x.shape)}")
        found.append(x)
        first = found[0]
        if x.shape[0] == 0 or x.shape[1] == 0:
            raise ValueError(f"{name}: expected at least one row and one token, got shape {list(x.shape)}")
        if x.shape[0] != first.shape[0]:
            raise ValueError(
                f"{name}: expected {first.shape[0]} rows as in {names[0]}, got {x.shape[0]} (shape {list(x.shape)})"
            )
        if x.device != first.device:
            raise ValueError(f"{name}: expected device {first.device} as {names[0]}, got {x.device}")
        if x.shape[1] > 1 and x.stride(1) != 1:
            raise ValueError(f"{name}: expected a contiguous last dimension, got strides {list(x.stride())}")
    return tuple(found)


def check_mass_fits(vocab_size: int) -> None:
    """Refuses vocabularies whose sum of masses may not fit into 64 bits (numerics.md §3)."""
    if vocab_size > MAX_VOCAB:
        raise ValueError(
            f"vocab_size: expected at most {MAX_VOCAB} (2^22), so that masses fit into 64 bits, got {vocab_size}"
        )


def resolve_vocab_size(names: Sequence[str], logits: Sequence[Tensor], vocab_size: int | None) -> int:
    """The columns that count: `vocab_size`, or what the narrowest model has."""
    widths = [x.shape[1] for x in logits]
    width = min(widths)
    if vocab_size is None:
        vocab_size = width
    if not isinstance(vocab_size, int | torch.SymInt) and hasattr(vocab_size, "__index__"):
        vocab_size = vocab_size.__index__()
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int | torch.SymInt):
        raise TypeError(f"vocab_size: expected an integer, got {type(vocab_size).__name__}")
    if not 1 <= vocab_size <= width:
        raise ValueError(
            f"vocab_size: expected 1 to {width}, the width of {names[widths.index(width)]}, got {vocab_size}"
        )
    check_mass_fits(vocab_size)
    return vocab_size


def _rows_of(name: str, option: Tensor, batch: int, device: torch.device) -> Tensor:
    option = in_memory(name, option)
    if option.device != device:
        raise ValueError(f"{name}: expected a tensor on {device} as the logits, got {option.device}")
    if option.dim() != 1 or option.shape[0] != batch:
        raise ValueError(f"{name}: expected a scalar or a tensor [{batch}], got shape {list(option.shape)}")
    return option


def finite(low: float, high: float, got: float = math.nan) -> str:
    """Words for messages: "a finite number in [0, 1]"; where `got` is one that float32 has not, they say so."""
    if math.isfinite(got) and low <= got <= high:
        return "a finite number in float32"
    if math.isfinite(high):
        return f"a finite number in [{low:g}, {high:g}]"
    return f"a finite number of at least {low:g}" if math.isfinite(low) else "a finite number"


def check_real(
    name: str,
    option: float | Tensor,
    batch: int,
    device: torch.device,
    low: float = -math.inf,
    high: float = math.inf,
) -> Real:
    """A floating option as fp32; a scalar must be finite and in [low, high]."""
    if isinstance(option, Tensor):
        if not option.dtype.is_floating_point and option.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name}: expected a floating tensor, got {option.dtype}")
        return Real(1.0, _rows_of(name, option, batch, device).to(torch.float32))
    if not isinstance(option, _REAL) and isinstance(option, numbers.Real):
        option = float(option)  # numpy's numbers
    if isinstance(option, bool) or not isinstance(option, _REAL):
        raise TypeError(f"{name}: expected a number or a tensor [{batch}], got {type(option).__name__}")
    if not low <= option <= high or not -BEYOND_FLOAT32 < option < BEYOND_FLOAT32:
        raise ValueError(f"{name}: expected {finite(low, high, option)}, got {option}")
    return Real(float(option))


def check_integer(name: str, option: int | Tensor, batch: int, device: torch.device, low: int | None = 0) -> Integer:
    """An integer option as int64; a scalar must be at least `low` (None: any 64 bits, as for a seed)."""
    if isinstance(option, Tensor):
        if option.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
            raise TypeError(f"{name}: expected an integer tensor, got {option.dtype}")
        return Integer(0, _rows_of(name, option, batch, device).to(torch.int64).contiguous())
    if not isinstance(option, _INTEGER) and hasattr(option, "__index__"):
        option = option.__index__()  # numpy's integers
    if isinstance(option, bool) or not isinstance(option, _INTEGER):
        raise TypeError(f"{name}: expected an integer or a tensor [{batch}], got {type(option).__name__}")
    if low is None:
        if not -(2**63) <= option < 2**64:
            raise ValueError(f"{name}: expected a 64-bit integer, got {option}")
        return Integer(option - 2**64 if option >= 2**63 else option)
    if not low <= option < 2**63:
        raise ValueError(f"{name}: expected an integer of at least {low}, got {option}")
    return Integer(option)


def check_bias(bias: Tensor, batch: int, vocab_size: int, device: torch.device) -> Tensor:
    """fp32 [V] or [B, V] (at least `vocab_size` wide), contiguous last dimension."""
    if not isinstance(bias, Tensor) or bias.dtype != torch.float32:
        raise TypeError(f"bias: expected a float32 tensor, got {getattr(bias, 'dtype', type(bias).__name__)}")
    bias = in_memory("bias", bias)
    fits = bias.dim() == 1 or (bias.dim() == 2 and bias.shape[0] == batch)
    if not fits or bias.shape[-1] < vocab_size:
        raise ValueError(f"bias: expected shape [{vocab_size}] or [{batch}, {vocab_size}], got {list(bias.shape)}")
    return _check_placed("bias", bias, device)


def check_token_bitmask(token_bitmask: Tensor, batch: int, vocab_size: int, device: torch.device) -> Tensor:
    """int32 [B, ceil(V/32)] bitmask (xgrammar's layout), contiguous last dimension."""
    words = (vocab_size + 31) // 32
    if not isinstance(token_bitmask, Tensor) or token_bitmask.dtype != torch.int32:
        given = getattr(token_bitmask, "dtype", type(token_bitmask).__name__)
        raise TypeError(f"token_bitmask: expected an int32 bitmask, got {given}")
    token_bitmask = in_memory("token_bitmask", token_bitmask)
    if token_bitmask.dim() != 2 or token_bitmask.shape[0] != batch or token_bitmask.shape[1] < words:
        raise ValueError(f"token_bitmask: expected shape [{batch}, {words}], got {list(token_bitmask.shape)}")
    return _check_placed("token_bitmask", token_bitmask, device)


def _check_placed(name: str, x: Tensor, device: torch.device) -> Tensor:
    if x.device != device:
        raise ValueError(f"{name}: expected a tensor on {device} as the logits, got {x.device}")
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        raise ValueError(f"{name}: expected a contiguous last dimension, got strides {list(x.stride())}")
    return x


def check_out(name: str, out: Tensor, dtype: torch.dtype, want: tuple[int, ...], device: torch.device) -> None:
    """A contiguous tensor to write results into."""
    if not isinstance(out, Tensor) or out.dtype != dtype or tuple(out.shape) != want or out.device != device:
        came = shape(out) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"{name}: expected {dtype} {list(want)} on {device}, got {came}")
    if in_memory(name, out) is not out:
        raise ValueError(f"{name}: expected a tensor that can be written at its address, got a view of negated values")
    if not out.is_contiguous():
        raise ValueError(f"{name}: expected a contiguous tensor, got strides {list(out.stride())}")
