"""Which backends exist here, why the others do not, and which one a call gets."""

from __future__ import annotations

import importlib
import os
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import torch

from eft_ext.ops import native, plain
from eft_ext.ops.call import Mixture, Sampling

NAMES = ("cuda", "triton", "cpu", "reference")


@dataclass(frozen=True)
class Backend:
    """One way to compute the step, as found on this machine."""

    name: str
    available: bool
    detail: str = ""  # instruction set, architectures, devices
    reason: str = ""  # why it is missing
    remedy: str = ""  # what would enable it


def backends() -> dict[str, Backend]:
    """Which backends are built and usable here; for each missing one why, and what would enable it."""
    return {
        b.name: b for b in (_cuda(), _triton(), _cpu(), Backend("reference", True, "float64 and integers, any device"))
    }


_UNBUILT = "pip install . (or -e .) in the source tree; it needs a C++17 compiler"


def _cpu() -> Backend:
    if native._native is None:
        return Backend("cpu", False, reason=f"the native module is not built ({native.IMPORT_ERROR})", remedy=_UNBUILT)
    best = native._native.cpu_best_isa()
    usable = [name for name, isa in native.ISA.items() if 0 < isa <= best]
    return Backend("cpu", True, f"{usable[-1]} (of {', '.join(usable)})")


def _cuda() -> Backend:
    if native._native is None:
        return Backend("cuda", False, reason=f"the native module is not built ({native.IMPORT_ERROR})", remedy=_UNBUILT)
    if not native._native.cuda_built():
        remedy = "put nvcc (CUDA 12.4 or newer) on PATH and pip install again"
        return Backend("cuda", False, reason="libeft was built without nvcc", remedy=remedy)
    detail = f"built for {native._native.cuda_architectures()}"
    if not torch.backends.cuda.is_built():
        return Backend("cuda", False, detail, "this torch is a CPU build", "install a CUDA build of torch")
    if not torch.cuda.is_available():
        return Backend(
            "cuda", False, detail, "torch sees no CUDA device", "a machine with an NVIDIA GPU and its driver"
        )
    return Backend("cuda", True, f"{detail}; {torch.cuda.get_device_name()}")


def _triton() -> Backend:
    try:
        detail = version("triton")
    except PackageNotFoundError:
        return Backend("triton", False, reason="triton is not installed", remedy="pip install 'eft_ext[triton]'")
    if _interpreted():
        return Backend("triton", True, f"{detail}, interpreted (TRITON_INTERPRET): CPU tensors, no speed")
    if not torch.backends.cuda.is_built():
        return Backend("triton", False, detail, "this torch is a CPU build", "install a CUDA or ROCm build of torch")
    if not torch.cuda.is_available():
        return Backend("triton", False, detail, "torch sees no GPU", "a machine with a GPU and its driver")
    return Backend("triton", True, f"{detail}; {torch.cuda.get_device_name()}")


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


@cache
def _triton_step() -> ModuleType:
    return importlib.import_module("eft_ext.ops.triton")


@cache
def _warn_slow_cuda(vocab_size: int) -> None:
    warnings.warn(
        "eft_ext: Triton is not usable here, and the CUDA kernels are missing or take vocabularies up to "
        f"{native.CUDA_MAX_VOCAB}, not {vocab_size}; this call runs on the slow reference backend "
        "(see eft_ext.backends())",
        stacklevel=5,
    )


def choose(name: str, mix: Mixture, draw: Sampling | None, details: bool) -> ModuleType:
    """The module whose `step`, `combine`, `score` and `verify` serve this call. `name` as in `fused_step(backend=)`."""
    if name not in ("auto", *NAMES):
        raise ValueError(f"backend: expected 'auto' or one of {NAMES}, got {name!r}")
    if name == "auto":
        return _automatic(mix, draw, details)
    if name == "reference":
        return plain
    found = backends()[name]
    if not found.available:
        raise RuntimeError(f"backend: {name!r} is not usable here: {found.reason}; to enable it: {found.remedy}")
    kind = {"triton": "cpu" if _interpreted() else "cuda"}.get(name, name)
    if mix.device.type != kind:
        raise ValueError(f"backend: {name!r} expects tensors on {kind}, got {mix.device}")
    if name == "triton":
        return _triton_step()
    return native


def _automatic(mix: Mixture, draw: Sampling | None, details: bool) -> ModuleType:
    if mix.device.type == "cpu":
        if native._native is None:
            raise RuntimeError(f"backend: 'cpu' is not usable here: {_cpu().reason}; to enable it: {_UNBUILT}")
        return native
    if mix.device.type == "cuda":
        if _cuda_usable() and mix.vocab_size <= native.CUDA_MAX_VOCAB:
            return native
        if _triton_usable():
            return _triton_step()
        _warn_slow_cuda(mix.vocab_size)
    return plain


@cache
def _cuda_usable() -> bool:
    return _cuda().available


@cache
def _triton_usable() -> bool:
    return _triton().available and not _interpreted()
