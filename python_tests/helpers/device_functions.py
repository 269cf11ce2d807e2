"""Device functions by themselves, for tests in the interpreter (imported in its process only)."""

import torch
import triton
import triton.language as tl

from eft_ext.ops.triton.common.exponentials import exp64, exp_or_zero, log1p64
from eft_ext.ops.triton.verify.accept import accepts


@triton.jit
def _accepts(numbers, out, N: tl.constexpr):
    i = tl.arange(0, N)
    bits, wp = tl.load(numbers + i).to(tl.uint64), tl.load(numbers + N + i).to(tl.uint64)
    sp, wq = tl.load(numbers + 2 * N + i).to(tl.uint64), tl.load(numbers + 3 * N + i).to(tl.uint64)
    sq = tl.load(numbers + 4 * N + i).to(tl.uint64)
    tl.store(out + i, accepts(bits, wp, sp, wq, sq).to(tl.int32))


def accepted(numbers: torch.Tensor) -> torch.Tensor:
    """numbers: int64 [5, N], of which each is read as unsigned: bits, wp, sp, wq, sq."""
    count = triton.next_power_of_2(numbers.shape[1])
    padded = torch.zeros(5, count, dtype=torch.int64)
    padded[:, : numbers.shape[1]] = numbers
    out = torch.empty(count, dtype=torch.int32)
    _accepts[(1,)](padded, out, N=count)
    return out[: numbers.shape[1]]


@triton.jit
def _exponentials(x, single, double, logs, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(single + i, exp_or_zero(tl.load(x + i).to(tl.float32)))
    tl.store(double + i, exp64(tl.load(x + i)))
    tl.store(logs + i, log1p64(-tl.load(x + i)))


def exponentials(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """fp32 exp, fp64 exp and log(1 - x) of fp64 x <= 0 [N]."""
    count = triton.next_power_of_2(len(x))
    padded = torch.nn.functional.pad(x, (0, count - len(x)))
    out = (padded.float(), padded.clone(), padded.clone())
    _exponentials[(1,)](padded, *out, N=count)
    return tuple(found[: len(x)] for found in out)
