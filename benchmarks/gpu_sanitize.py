"""Do the kernels touch memory out of bounds, race in shared memory, or read memory that nobody wrote?

    python benchmarks/gpu_sanitize.py [--tools memcheck racecheck initcheck] [--seconds 240]
    python benchmarks/gpu_sanitize.py --tools memcheck --only python_tests/ops/test_cuda_gpu.py::test_small_conservative

Runs the reduced GPU tests under compute-sanitizer; it times nothing, so there is no baseline and no floor. Each tool
has its share of the time, and at least a minute while there is one: a later one may then not be begun, and a line says
so. A tool that does not end in its time is reported and is not a pass. Ends with 2 and one line where compute-sanitizer
is not there, or does not support the device.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence

from common.checkout import ROOT
from common.timeout import run_with_timeout
from gpu.tests import CUDA

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
FILES = [CUDA[key].file for key in ("step", "verify", "score", "special")]
MIN_SECONDS = 60.0  # of a tool, while they are left
MIN_LEFT = 20.0  # seconds, to begin another tool
CUDA_FOLDERS = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")


def sanitizer() -> str | None:
    return shutil.which("compute-sanitizer", path=os.pathsep.join((os.environ.get("PATH", ""), *CUDA_FOLDERS)))


def command(program: str, tool: str, tests: Sequence[str]) -> list[str]:
    """Returns pytest under a tool that checks the library's kernels only; initcheck must see other writers too."""
    pytest = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider"]
    only = [] if tool == "initcheck" else ["--kernel-name", "kernel_substring=3eft"]  # of the mangled name
    options = ["--tool", tool, "--error-exitcode", "9", *only]
    return [program, *options, *pytest, *tests]


def summary(output: str) -> str:
    """Returns the tool's own summary, or the last line of the output."""
    found = re.findall(r"=+ (ERROR SUMMARY.*|RACECHECK SUMMARY.*)", output)
    lines = output.strip().splitlines()
    return found[-1] if found else lines[-1] if lines else "no output"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", default=list(TOOLS[:3]), choices=TOOLS)
    parser.add_argument("--tests", default="small", help="which of the GPU tests, as pytest -k takes it")
    parser.add_argument("--only", nargs="+", metavar="TEST", help="these tests instead, by their node ids")
    parser.add_argument("--seconds", type=float, default=240, help="for all tools together")
    args = parser.parse_args()
    program = sanitizer()
    if program is None:
        print("gpu_sanitize: not run, compute-sanitizer (of the CUDA toolkit) was not found", file=sys.stderr)
        return 2
    tests, environment = args.only or [*FILES, "-k", args.tests], dict(os.environ)
    if not args.only:  # each tensor its own allocation, so that its end is known; captures cannot have that
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    codes, stop = [0], time.monotonic() + args.seconds
    for i, tool in enumerate(args.tools):
        left = stop - time.monotonic()
        if i and left < MIN_LEFT:
            print(f"{tool}: not begun, {max(left, 0):.0f} seconds were left")
            continue
        left = max(1.0, min(left, max(left / (len(args.tools) - i), MIN_SECONDS)))
        with tempfile.TemporaryFile("a+b") as log:
            ended = run_with_timeout(command(program, tool, tests), left, log, cwd=ROOT, env=environment, shown=tool)
        if "Device not supported" in ended.output:
            print(f"gpu_sanitize: not run, {tool} does not support this machine's device", file=sys.stderr)
            return 2
        print(f"{tool}: {ended.fault or 'ended with 0'}, {summary(ended.output)}")
        if ended.fault:
            codes.append(1)
            print(ended.output[-6000:])
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
