"""Does this machine have a GPU that the CUDA step runs on, and with which bandwidth?

    python benchmarks/gpu_device.py [--json device.json]

Prints the device, the versions and the bandwidth of a device-to-device copy: the floor of every GPU figure. There is no
baseline. Ends with 2 and one line where the CUDA step is not usable.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.checkout import newer_sources
from gpu import timing
from gpu.device import describe_gpu, missing_requirement


def triton_version() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write it here")
    args = parser.parse_args()
    if missing := missing_requirement():
        print(f"gpu_device: not run, it needs {missing}", file=sys.stderr)
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
