"""The lines of a kernel that one row runs through, by gcov, on the emulator.

    python -m python_tests.helpers.host_coverage stream '{"temperature": 0.7, "top_p": 0.9}' > ran.json
    python -m python_tests.helpers.host_coverage resident '{}' --row flat > ran.json

Builds the emulator in build/coverage: unoptimised, and with calls where the kernels have inlined functions, so that the
line of each call is counted. Prints gcov's JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

import torch

from eft_ext.ops import fused_step
from python_tests.helpers.host_cuda import ROOT, Launch, library
from python_tests.helpers.rows import ROWS

BUILD = ROOT / "build" / "coverage"
FLAGS = "-O0 --coverage -Dalways_inline=unused"


def build() -> None:
    configure = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(BUILD), f"-DCMAKE_CXX_FLAGS_RELEASE={FLAGS}"]
    options = ["-DEFT_PYTHON=OFF", "-DEFT_TESTS=ON", "-DEFT_CUDA=OFF", "-DEFT_AVX512=OFF"]
    subprocess.run([*configure, *options], check=True, stdout=sys.stderr)
    subprocess.run(["cmake", "--build", BUILD, "--target", "hostcuda"], check=True, stdout=sys.stderr)


def step(kernel: str, row: str, vocab_size: int, options: dict[str, Any]) -> None:
    """Draws a token from three bf16 models."""
    host = library()
    host.launch = Launch(kernel={"stream": "streaming"}.get(kernel, kernel), blocks=4)
    large, tuned, base = (ROWS[row](1, vocab_size, torch.bfloat16, seed) for seed in range(3))
    with host.installed():
        fused_step(large, tuned, base, seed=0, position=0, backend="cpu", **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernel", choices=["stream", "resident"])
    parser.add_argument("options", type=json.loads, help="of fused_step")
    parser.add_argument("--row", choices=sorted(ROWS), default="lm")
    parser.add_argument("--vocab-size", type=int, default=131072)
    args = parser.parse_args()
    if os.environ.get("EFT_HOSTCUDA") == str(BUILD / "csrc" / "emulator"):  # the child, at whose end counts are written
        step(args.kernel, args.row, args.vocab_size, args.options)
        return
    build()
    for old in BUILD.rglob("*.gcda"):
        old.unlink()
    child = [sys.executable, "-m", "python_tests.helpers.host_coverage", *sys.argv[1:]]
    subprocess.run(child, check=True, cwd=ROOT, env=os.environ | {"EFT_HOSTCUDA": str(BUILD / "csrc" / "emulator")})
    (counts,) = BUILD.rglob(f"{args.kernel}_launch.cpp.gcda")
    subprocess.run(["gcov", "--json-format", "-t", counts], check=True, cwd=counts.parent)


if __name__ == "__main__":
    main()
