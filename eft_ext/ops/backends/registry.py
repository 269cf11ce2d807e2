"""The backends: those that exist here, why the others do not, and the one that a call gets."""

from __future__ import annotations

import importlib
import os
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import torch

from eft_ext._extras import install
from eft_ext.ops.backends import native, reference_backend
from eft_ext.ops.params import MixParams

NAMES = ("cuda", "triton", "cpu", "reference")


@dataclass(frozen=True)
class Backend:
    """One way to compute the step, as found on this machine.

    Attributes:
        name: as in `fused_step(backend=)`.
        available: True if it is built and usable here.
        detail: instruction set, architectures, devices.
        reason: why it is missing.
        remedy: what would enable it.
        device: type of the device whose tensors it takes; empty: any.
    """

    name: str
    available: bool
    detail: str = ""
    reason: str = ""
    remedy: str = ""
    device: str = ""


def backends() -> dict[str, Backend]:
    """Lists the backends by name: built and usable here, or else why not and what would enable each."""
    return {name: probe() for name, probe in _PROBES.items()}


def find(name: str) -> Backend:
    """One backend as `backends` lists it. A usable one is probed once: finding Triton takes longer than many a step."""
    known = _usable.get(name)
    if known is None:
        known = _PROBES[name]()
        if known.available:
            _usable[name] = known
    return known


_usable: dict[str, Backend] = {}


def _cpu() -> Backend:
    if native._native is None:
        return Backend("cpu", False, reason=native.MISSING, remedy=native.REMEDY)
    best = native._native.cpu_best_isa()
    usable = [name for name, isa in native.ISA.items() if 0 < isa <= best]
    return Backend("cpu", True, f"{usable[-1]} (of {', '.join(usable)})", device="cpu")


def _cuda() -> Backend:
    if native._native is None:
        return Backend("cuda", False, reason=native.MISSING, remedy=native.REMEDY)
    if not native._native.cuda_built():
        remedy = "pip install again, with nvcc (CUDA 12.4 or newer) on PATH"
        return Backend("cuda", False, reason="libeft was built without CUDA", remedy=remedy)
    detail = f"built for {native._native.cuda_architectures()}"
    if not torch.backends.cuda.is_built():
        return Backend("cuda", False, detail, "this torch is a CPU build", "install a CUDA build of torch")
    if not torch.cuda.is_available():
        return Backend(
            "cuda", False, detail, "torch sees no CUDA device", "a machine with an NVIDIA GPU and its driver"
        )
    return Backend("cuda", True, f"{detail}; {torch.cuda.get_device_name()}", device="cuda")


def _triton() -> Backend:
    try:
        detail = version("triton")
    except PackageNotFoundError:
        return Backend("triton", False, reason="triton is not installed", remedy=install("triton"))
    if _interpreted():
        return Backend("triton", True, f"{detail}, interpreted (TRITON_INTERPRET): CPU tensors, no speed", device="cpu")
    if not torch.backends.cuda.is_built():
        return Backend("triton", False, detail, "this torch is a CPU build", "install a CUDA or ROCm build of torch")
    if not torch.cuda.is_available():
        return Backend("triton", False, detail, "torch sees no GPU", "a machine with a GPU and its driver")
    return Backend("triton", True, f"{detail}; {torch.cuda.get_device_name()}", device="cuda")


def _reference() -> Backend:
    return Backend("reference", True, "float64 and integers, any device")


_PROBES = dict(zip(NAMES, (_cuda, _triton, _cpu, _reference), strict=True))


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


@cache
def _triton_backend() -> ModuleType:
    return importlib.import_module("eft_ext.ops.triton")


@cache
def _warn_slow_cuda(vocab_size: int) -> None:
    warnings.warn(
        "eft_ext: Triton is not usable here, and the CUDA kernels are missing or take vocabularies up to "
        f"{native.CUDA_MAX_VOCAB}, not {vocab_size}; this call runs on the slow reference backend "
        "(see eft_ext.backends())",
        stacklevel=5,
    )


def choose_backend(name: str, mix: MixParams) -> ModuleType:
    """The module whose `step`, `combine`, `score` and `verify` serve this call. `name` as in `fused_step(backend=)`."""
    if name not in ("auto", *NAMES):
        raise ValueError(f"backend: expected 'auto' or one of {NAMES}, got {name!r}")
    if name == "auto":
        return _automatic(mix)
    if name == "reference":
        return reference_backend
    asked = find(name)
    if not asked.available:
        raise RuntimeError(f"backend: {name!r} is not usable here: {asked.reason}; to enable it: {asked.remedy}")
    if mix.device.type != asked.device:
        raise ValueError(f"backend: {name!r} expects tensors on {asked.device}, got {mix.device}")
    if name == "triton":
        return _triton_backend()
    return native


def _automatic(mix: MixParams) -> ModuleType:
    if mix.device.type == "cpu":
        if native._native is None:
            raise RuntimeError(f"backend: 'cpu' is not usable here: {native.MISSING}; to enable it: {native.REMEDY}")
        return native
    if mix.device.type == "cuda":
        if _cuda_usable() and mix.vocab_size <= native.CUDA_MAX_VOCAB:
            return native
        if _triton_usable():
            return _triton_backend()
        _warn_slow_cuda(mix.vocab_size)
    return reference_backend


def _cuda_usable() -> bool:
    return find("cuda").available


def _triton_usable() -> bool:
    triton = find("triton")
    return triton.available and triton.device == "cuda"
