"""The GPU, the versions and the bandwidth that figures are held against.

    python benchmarks/gpu_device.py [--json device.json]

Ends with 2 and one line where the CUDA step is not usable here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gpu_timing as timing
import torch
from checkout import newer_sources
from gpu_ready import missing
from machine import describe

QUERY = ("driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit", "memory.total")


def describe_gpu() -> dict[str, Any]:
    """Returns `machine.describe` and the device; in the place of what nvidia-smi does not say stands its error."""
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


def triton_version() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write it here")
    args = parser.parse_args()
    if lacks := missing():
        print(f"gpu_device: not run, it needs {lacks}", file=sys.stderr)
        return 2
    found = describe_gpu() | {
        "triton": triton_version(),
        "copy_bytes_per_us": timing.copy_bytes_per_us(),
        "newer_than_libeft": newer_sources(),
    }
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
