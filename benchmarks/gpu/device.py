"""The GPU of this machine: its name, versions and clocks, or the reason why it cannot be used."""

from __future__ import annotations

import subprocess
from typing import Any

import torch
from common.machine import describe

import eft_ext

QUERY = ("driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit", "memory.total")


def missing_requirement() -> str:
    """Returns the first thing that the CUDA step lacks here, or nothing."""
    if not torch.cuda.is_available():
        return f"a CUDA device: torch {torch.__version__} sees none"
    cuda = eft_ext.backends()["cuda"]
    return "" if cuda.available else f"the CUDA step: {cuda.reason}; to enable it: {cuda.remedy}"


def describe_gpu() -> dict[str, Any]:
    """Returns `machine.describe` and the device; nvidia-smi's error stands in for each value that it does not give."""
    line = [
        "nvidia-smi",
        f"--query-gpu={','.join(QUERY)}",
        "--format=csv,noheader",
        f"--id={torch.cuda.current_device()}",
    ]
    try:
        values = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip().split(", ")
    except (OSError, subprocess.CalledProcessError) as error:
        values = [f"nvidia-smi: {type(error).__name__}"] * len(QUERY)
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        **describe(),
        **dict(zip(QUERY, values, strict=True)),
        "cuda": torch.version.cuda,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "compute_capability": f"{properties.major}.{properties.minor}",
    }
