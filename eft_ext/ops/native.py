"""The step of libeft: tensors become addresses here, and nowhere else."""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch
from torch import Tensor

from eft_ext.ops.call import Mixture, Sampling
from eft_ext.ops.details import StepDetails
from eft_ext.ops.inputs import DTYPES, Integer, Real

_native: Any = None
IMPORT_ERROR = ""
try:
    # After torch: libeft shares the OpenMP pool that torch has loaded.
    _native = importlib.import_module("eft_ext._native")
except ImportError as error:  # a source tree that was not built
    IMPORT_ERROR = str(error)

CUDA_MAX_VOCAB = 2**19  # the CUDA step keeps a row's tiles in shared memory
ISA = {"auto": 0, "portable": 1, "avx2": 2, "avx512": 3}
_forced = {"isa": os.environ.get("EFT_CPU_ISA", "auto")}


def force_isa(name: str) -> None:
    """Instruction set of the CPU step: "auto", "portable", "avx2" or "avx512" (also EFT_CPU_ISA). The tokens are the
    same from all of them; this is for tests and benchmarks."""
    if name not in ISA:
        raise ValueError(f"isa: expected one of {list(ISA)}, got {name!r}")
    _forced["isa"] = name


def isa() -> int:
    """The EFT_ISA_* that the next CPU step runs with."""
    if _forced["isa"] not in ISA:
        raise ValueError(f"EFT_CPU_ISA: expected one of {list(ISA)}, got {_forced['isa']!r}")
    return ISA[_forced["isa"]]


def _real(option: Real) -> tuple[float, int, int]:
    if option.rows is None:
        return (option.value, 0, 0)
    return (option.value, option.rows.data_ptr(), option.rows.stride(0))


def _integer(option: Integer) -> tuple[int, int]:
    return (option.value, 0 if option.rows is None else option.rows.data_ptr())


def _strided(x: Tensor | None) -> tuple[int, int]:
    if x is None:
        return (0, 0)
    return (x.data_ptr(), x.stride(0) if x.dim() == 2 else 0)


def _address(x: Tensor) -> int:
    return x.data_ptr() if x.numel() else 0


def _mixture(mix: Mixture) -> tuple[Any, ...]:
    return (
        mix.batch,
        mix.vocab_size,
        [(x.data_ptr(), x.stride(0), DTYPES[x.dtype]) for x in mix.logits],
        [_real(w) for w in mix.weights],
        _strided(mix.bias),
        _strided(mix.allowed),
        (mix.conservative, mix.drop_outside, _real(mix.conservative_top_p)),
    )


def prepare(mix: Mixture, draw: Sampling, details: StepDetails | None = None) -> Any:
    """The step as the binding wants it; it holds addresses, so the tensors must outlive it."""
    addresses: tuple[int, ...] = (0,) * 9
    if details is not None:
        addresses = (*(_address(x) for x in details[1:]), details.top_ids.shape[1])
    return _native.prepare(
        *_mixture(mix),
        _real(draw.temperature),
        _integer(draw.top_k),
        _real(draw.top_p),
        _real(draw.min_p),
        _integer(draw.seed),
        _integer(draw.position),
        addresses,
    )


def step(
    mix: Mixture, draw: Sampling, tokens: Tensor, details: StepDetails | None, workspace: Tensor | None = None
) -> None:
    """Writes tokens, and details where given, on the logits' device (CUDA: on its current stream)."""
    prepared = prepare(mix, draw, details)
    if mix.device.type != "cuda":
        prepared.run(isa(), tokens.data_ptr())
        return
    with torch.cuda.device(mix.device):
        stream = torch.cuda.current_stream().cuda_stream
        scratch = scratch_for(prepared.workspace_bytes(), mix.device, stream, workspace)
        prepared.run_cuda(stream, tokens.data_ptr(), scratch.data_ptr(), scratch.nbytes)


def run_next(prepared: Any, device: torch.device, tokens: Tensor, seed: int, position: int, logits: list[int]) -> None:
    """A kept CUDA call with other logits, seed and position, on the device's current stream."""
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        scratch = scratch_for(prepared.workspace_bytes(), device, stream)
        prepared.run_next_cuda(stream, tokens.data_ptr(), scratch.data_ptr(), scratch.nbytes, seed, position, *logits)


def combine(mix: Mixture, z: Tensor) -> None:
    """Writes the mixture's logits, fp32 [B, V]."""
    described = _mixture(mix)
    if mix.device.type != "cuda":
        _native.combine(isa(), *described, z.data_ptr(), z.stride(0))
        return
    with torch.cuda.device(mix.device):
        stream = torch.cuda.current_stream().cuda_stream
        scratch = scratch_for(_native.combine_workspace_bytes(*described), mix.device, stream)
        _native.combine_cuda(stream, scratch.data_ptr(), scratch.nbytes, *described, z.data_ptr(), z.stride(0))


_scratch: dict[tuple[torch.device, int], Tensor] = {}


def scratch_for(wanted: int, device: torch.device, stream: int, given: Tensor | None = None) -> Tensor:
    """A workspace of at least `wanted` bytes: the caller's, else the one kept for this device and stream. A graph that
    is being captured gets one of its own, out of its pool, whose tickets each replay clears."""
    if given is not None:
        if given.device != device or not given.is_contiguous() or given.nbytes < wanted or given.data_ptr() % 16:
            raise ValueError(
                f"workspace: expected a contiguous tensor of at least {wanted} bytes on {device}, 16-byte aligned, "
                f"zero before its first use; got {given.nbytes} bytes on {given.device}"
            )
        return given
    if torch.cuda.is_current_stream_capturing():
        own = torch.empty(wanted, dtype=torch.uint8, device=device)
        own[: _native.CUDA_TICKET_BYTES].zero_()
        return own
    kept = _scratch.get((device, stream))
    if kept is None or kept.nbytes < wanted:
        kept = _scratch[device, stream] = torch.zeros(wanted, dtype=torch.uint8, device=device)
    return kept
