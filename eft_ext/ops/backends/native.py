"""The backend of libeft: step, `combine`, score and verify, on CPU and CUDA. Tensors become addresses here.

A step that is prepared runs again with other addresses: call_cache.py and prepared_step.py bring those themselves.
"""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

import torch
from torch import Tensor

from eft_ext.ops.inputs import DTYPES
from eft_ext.ops.params import DraftParams, Integer, MixParams, Real, SamplingParams, ScoreParams
from eft_ext.ops.results import Score, StepDetails, VerifyResult
from eft_ext.ops.special_tokens import SpecialMasks

_native: Any = None
MISSING = ""  # why there is no native module, in one line
REMEDY = "pip install . (or -e .) in the source tree; it needs a C++17 compiler"
try:
    # After torch: libeft shares the OpenMP pool that torch has loaded.
    _native = importlib.import_module("eft_ext._native")
except ModuleNotFoundError as error:  # a source tree that was not built
    MISSING = f"the native module is not built ({error})"
except ImportError as error:  # it is there, and something is wrong with it: never in silence
    MISSING = f"the native module cannot be loaded: {error}"
    if "undefined symbol: eft_" in MISSING:
        MISSING += ", so its libeft.so is another version's"
    REMEDY = f"install the wheel again with --force-reinstall, or {REMEDY}"
    warnings.warn(f"eft_ext: {MISSING}; to repair it: {REMEDY}", RuntimeWarning, stacklevel=2)

CUDA_MAX_VOCAB = 2**19  # the CUDA step keeps a row's tiles in shared memory
ISA = {"auto": 0, "portable": 1, "avx2": 2, "avx512": 3}
_forced = {"isa": os.environ.get("EFT_CPU_ISA", "auto")}


def force_isa(name: str) -> None:
    """Instruction set of the CPU operations: "auto", "portable", "avx2" or "avx512" (also EFT_CPU_ISA).

    For tests and benchmarks. From the same logits the tokens are the same with all of them; linear layers and attention
    may round otherwise."""
    if name not in ISA:
        raise ValueError(f"isa: expected one of {list(ISA)}, got {name!r}")
    _forced["isa"] = name


def isa() -> int:
    """The EFT_ISA_* that the next CPU operation runs with."""
    try:
        return ISA[_forced["isa"]]
    except KeyError:
        raise ValueError(f"EFT_CPU_ISA: expected one of {list(ISA)}, got {_forced['isa']!r}") from None


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


def _special(masks: SpecialMasks | None) -> tuple[int, int, int]:
    return (0, 0, -1) if masks is None else (masks.tiles.data_ptr(), masks.masks.data_ptr(), masks.owner)


def _address(x: Tensor) -> int:
    return x.data_ptr() if x.numel() else 0


def _mixture(mix: MixParams) -> tuple[Any, ...]:
    return (
        mix.batch,
        mix.vocab_size,
        [(x.data_ptr(), x.stride(0), DTYPES[x.dtype]) for x in mix.logits],
        [_real(w) for w in mix.weights],
        _strided(mix.bias),
        _strided(mix.token_bitmask),
        (mix.conservative, mix.drop_outside, _real(mix.conservative_top_p)),
        _special(mix.special),
    )


def prepare(mix: MixParams, sampling: SamplingParams, details: StepDetails | None = None) -> Any:
    """The step as the binding wants it; it holds addresses, so the tensors must outlive it."""
    addresses: tuple[int, ...] = (0,) * 9
    if details is not None:
        addresses = (*(_address(x) for x in details[1:]), details.top_ids.shape[1])
    return _native.prepare(
        *_mixture(mix),
        _real(sampling.temperature),
        _integer(sampling.top_k),
        _real(sampling.top_p),
        _real(sampling.min_p),
        _integer(sampling.seed),
        _integer(sampling.position),
        addresses,
    )


def step(
    mix: MixParams,
    sampling: SamplingParams,
    tokens: Tensor,
    details: StepDetails | None,
    workspace: Tensor | None = None,
) -> None:
    """Writes tokens, and details where given, on the logits' device (CUDA: on its current stream)."""
    prepared = prepare(mix, sampling, details)
    if mix.device.type != "cuda":
        prepared.run(isa(), tokens.data_ptr())
        return
    with torch.cuda.device(mix.device):
        stream = torch.cuda.current_stream().cuda_stream
        scratch = scratch_for(prepared.workspace_bytes(), mix.device, stream, workspace)
        prepared.run_cuda(stream, tokens.data_ptr(), scratch.data_ptr(), scratch.nbytes)


def run_next(prepared: Any, device: torch.device, tokens: Tensor, seed: int, position: int, logits: list[int]) -> None:
    """Runs a cached CUDA call with other logits, seed and position, on the device's current stream."""
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        scratch = scratch_for(prepared.workspace_bytes(), device, stream)
        prepared.run_next_cuda(stream, tokens.data_ptr(), scratch.data_ptr(), scratch.nbytes, seed, position, *logits)


def combine(mix: MixParams, z: Tensor) -> None:
    """Writes the mixture's logits, fp32 [B, V]."""
    described = _mixture(mix)
    if mix.device.type != "cuda":
        _native.combine(isa(), *described, z.data_ptr(), z.stride(0))
        return
    with torch.cuda.device(mix.device):
        stream = torch.cuda.current_stream().cuda_stream
        scratch = scratch_for(_native.combine_workspace_bytes(*described), mix.device, stream)
        _native.combine_cuda(stream, scratch.data_ptr(), scratch.nbytes, *described, z.data_ptr(), z.stride(0))


def score(mix: MixParams, targets: Tensor, wanted: ScoreParams, out: Score) -> None:
    """Writes statistics (CUDA: on the current stream)."""
    ignore_index, compared, num_top, num_changed = wanted
    prepared = _native.prepare_score(
        *_mixture(mix),
        targets.data_ptr(),
        ignore_index,
        compared,
        [_address(field) for field in out],
        num_top,
        num_changed,
    )
    _run(prepared, mix.device)


def _run(prepared: Any, device: torch.device) -> None:
    """A prepared score or verification where its tensors are; CUDA: on the current stream."""
    if device.type != "cuda":
        prepared.run(isa())
        return
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        scratch = scratch_for(prepared.workspace_bytes(), device, stream)
        prepared.run_cuda(stream, scratch.data_ptr(), scratch.nbytes)


_scratch: dict[tuple[torch.device, int], Tensor] = {}


def scratch_for(wanted: int, device: torch.device, stream: int, given: Tensor | None = None) -> Tensor:
    """A workspace of at least `wanted` bytes: the caller's, else the one cached for this device and stream.

    A graph that is being captured gets one of its own, out of its pool; its tickets lie elsewhere
    (csrc/cuda/common/tickets.h).
    """
    if given is not None:
        if given.device != device or not given.is_contiguous() or given.nbytes < wanted or given.data_ptr() % 16:
            raise ValueError(
                f"workspace: expected a contiguous tensor of at least {wanted} bytes on {device}, 16-byte aligned, "
                f"zero before its first use; got {given.nbytes} bytes on {given.device}"
            )
        return given
    if torch.cuda.is_current_stream_capturing():
        return torch.empty(wanted, dtype=torch.uint8, device=device)
    cached = _scratch.get((device, stream))
    if cached is None or cached.nbytes < wanted:
        cached = _scratch[device, stream] = torch.zeros(wanted, dtype=torch.uint8, device=device)
    return cached


def verify(mix: MixParams, sampling: SamplingParams, drafted: DraftParams, result: VerifyResult) -> None:
    """Writes the result on the logits' device (CUDA: on its current stream). The logits of `mix` have a position axis,
    [B, k+1, V]."""
    token_bitmask, mask_stride = mix.token_bitmask, 0
    if token_bitmask is not None and token_bitmask.dim() == 3:
        token_bitmask, mask_stride = token_bitmask[:, 0], token_bitmask.stride(1)
    first = mix._replace(logits=tuple(x[:, 0] for x in mix.logits), token_bitmask=token_bitmask)
    q = drafted.logits
    prepared = _native.prepare_verify(
        prepare(first, sampling),
        [x.stride(1) for x in mix.logits],
        mask_stride,
        drafted.drafts.data_ptr(),
        drafted.drafts.shape[1],
        _integer(drafted.lengths),
        (0, 0, 2) if q is None else (q.data_ptr(), q.stride(0), DTYPES[q.dtype]),
        0 if q is None else q.stride(1),
        _real(drafted.temperature),
        _integer(drafted.top_k),
        _real(drafted.top_p),
        _real(drafted.min_p),
        *(x.data_ptr() for x in result),
    )
    _run(prepared, mix.device)
