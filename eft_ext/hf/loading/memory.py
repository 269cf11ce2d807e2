"""The memory that a model's weights will take, read from file headers before anything is loaded."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

_STORED = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Footprint:
    """Weights of one model: how many, and the bytes they take once loaded."""

    name: str
    parameters: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.name} {readable(self.bytes)} ({self.parameters:,} parameters)"


def auto_class(config: Any) -> Any:
    """The class that loads `config`: models that read images too are causal ones in few releases of transformers."""
    kind, remote = type(config), getattr(config, "auto_map", None) or {}
    if kind in AutoModelForCausalLM._model_mapping or "AutoModelForCausalLM" in remote:
        return AutoModelForCausalLM
    return AutoModelForImageTextToText if kind in AutoModelForImageTextToText._model_mapping else AutoModelForCausalLM


def footprint(
    name: str,
    source: str,
    *,
    dtype: Any = None,
    quantization_config: Any = None,
    trust_remote_code: bool = False,
    **hub: Any,
) -> Footprint:
    """Estimate from the safetensors headers of a local folder, else by building the model on the meta device.

    Args:
        source: local folder or hub id.
        dtype: what floating-point weights are converted to; None or "auto" keeps what is stored.
        quantization_config: 4-bit and 8-bit loading of transformers are taken into account.
        trust_remote_code: run code that comes with the model.
        hub: revision, token, ... for reading the configuration.
    """
    if files := weight_files(source):
        tensors = [
            (math.prod(tensor["shape"]), stored_bytes(tensor["dtype"]), "F" in tensor["dtype"])
            for file in files
            for tensor in header(file).values()
        ]
    else:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **hub)
        with torch.device("meta"):
            model = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
        stored = getattr(config, "dtype", None) or torch.float32
        tensors = [(p.numel(), stored.itemsize, True) for p in model.parameters()]
    width = _width(dtype, quantization_config)
    total = sum(int(n * (width if width is not None and floating else stored)) for n, stored, floating in tensors)
    return Footprint(name, sum(n for n, _, _ in tensors), total)


def weight_files(source: str) -> list[Path]:
    """The safetensors files of a local folder: those that its index names, else all. Empty for a hub id."""
    folder = Path(source)
    files, index = sorted(folder.glob("*.safetensors")), folder / "model.safetensors.index.json"
    named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()
    return [file for file in files if not named or file.name in named]


def header(file: Path) -> dict[str, dict[str, Any]]:
    """The "shape" and "dtype" of every tensor in a safetensors file, by its name."""
    with open(file, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        found: dict[str, dict[str, Any]] = json.loads(stream.read(length))
    found.pop("__metadata__", None)
    return found


def stored_bytes(dtype: str) -> int:
    """Bytes of an element by safetensors' name of its dtype; 1 for those of 8 bits."""
    return _STORED.get(dtype, 1)


def _width(dtype: Any, quantization_config: Any) -> float | None:
    """Bytes a floating-point weight will take, None where that is what is stored."""
    for option, width in (("load_in_4bit", 0.5), ("load_in_8bit", 1.0)):
        given = quantization_config
        if given is not None and (given.get(option) if isinstance(given, dict) else getattr(given, option, False)):
            return width
    if dtype is None or dtype == "auto":
        return None
    return (getattr(torch, dtype) if isinstance(dtype, str) else dtype).itemsize


def available(device_map: Any) -> int | None:
    """Free bytes where a device_map puts weights: the GPUs, the host, or both for "auto". None if unknown."""
    wanted = str(device_map)
    gpus = wanted not in ("None", "cpu") and torch.cuda.is_available()
    free = sum(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())) if gpus else 0
    if gpus and device_map not in ("auto", "balanced", "sequential"):
        return free
    host = _host()
    return None if host is None else free + host


def _host() -> int | None:
    """Memory that this process can still take: the machine's, or its control group's where that is less."""
    limits = []
    try:
        meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        limits.append(int(meminfo["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # absent, or "max"
        pass
    return min(limits) if limits else None


def readable(size: int) -> str:
    """1536 -> '1.5 KiB'."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if value >= 100 or units[0] == "B" else f"{value:.1f} {units[0]}"
