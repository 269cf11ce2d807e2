"""The size in machine code of the usual way through a CUDA kernel, and of the rare ones.

    python benchmarks/gpu_code.py step/stream                                        # by all headers of csrc/cuda
    python benchmarks/gpu_code.py step/stream --through details.cuh finish.cuh:88-93 # by those alone
    python benchmarks/gpu_code.py verify/verify --kernel 'verify_stream_kernel<false>'
    python -m python_tests.helpers.host_coverage stream '{"top_p": 0.9}' > ran.json  # which lines does a row run?
    python benchmarks/gpu_code.py step/stream --kernel 'stream_kernel<3, false>' --ran ran.json

Compiles csrc/cuda/<source>.cu as the build does, with line numbers (gpu/source_lines.py), which change no instruction.
Code counts for a file if it comes from there, or was inlined into it at any depth: rows overlap, but for the last.
Code ran if its line did on the emulator, and the line of every call that was inlined: an estimate, since a line can be
in several blocks. Fences and loads in flight are those of docs/internals/cuda-kernels.md. Needs nvcc, cmake and a
disassembler, no GPU. The baseline is the same command on another checkout. No time is measured.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.checkout import ROOT
from gpu import sass
from gpu.source_lines import Attributed, Line, Stack, attributed, parse_coverage, ran
from gpu_kernels import readable


@dataclass(frozen=True)
class Part:
    """A file, or some of its lines."""

    file: str  # the end of its path
    first: int = 0
    last: int = sys.maxsize

    def __str__(self) -> str:
        lines = f":{self.first}" + f"-{self.last}" * (self.first != self.last)
        return self.file + lines * (self.last != sys.maxsize)

    def holds(self, stack: Stack) -> bool:
        return any(f"/{line.file}".endswith(f"/{self.file}") and self.first <= line.number <= self.last
                   for line in stack)  # fmt: skip


def part(text: str) -> Part:
    """Parses finish.cuh, finish.cuh:88 or finish.cuh:88-93."""
    found = re.fullmatch(r"([^:]+)(?::(\d+)(?:-(\d+))?)?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected FILE, FILE:LINE or FILE:FIRST-LAST, got {text!r}")
    return Part(found[1], int(found[2]), int(found[3] or found[2])) if found[2] else Part(found[1])


def headers(code: list[Attributed]) -> list[Part]:
    """Returns the headers of csrc/cuda that code comes through."""
    return [Part(name) for name in sorted({line.file for a in code for line in a.stack if line.file[:5] == "cuda/"})]


def table(name: str, code: list[Attributed], parts: list[Part], coverage: dict[Line, bool]) -> str:
    """Returns a Markdown table of one kernel, a line for each part."""
    rows = [("all", code)]
    rows += sorted(((str(p), [a for a in code if p.holds(a.stack)]) for p in parts), key=lambda row: -len(row[1]))
    rows.append(("none of these", [a for a in code if not any(p.holds(a.stack) for p in parts)]))
    lines = [f"| `{name}` | bytes | % | ran | fences | in flight |", "| --- | --- | --- | --- | --- | --- |"]
    everything = [a.instruction for a in code]
    for title, own in rows:
        instructions = [a.instruction for a in own]
        in_flight = sass.in_flight(everything, {i.address for i in instructions})
        run = sum(ran(a.stack, coverage) for a in own) * sass.BYTES if coverage else "-"
        share = f"{100 * len(own) / len(code):.1f}"
        cells = [title, len(own) * sass.BYTES, share, run, sass.fences(instructions), in_flight]
        lines.append("| " + " | ".join(str(cell).strip("()") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="below csrc/cuda, without .cu")
    parser.add_argument("--arch", type=int, default=90)
    parser.add_argument("--kernel", nargs="+", help="its name as it is printed; otherwise all of the source")
    parser.add_argument("--through", nargs="+", type=part, metavar="FILE[:FIRST[-LAST]]")
    parser.add_argument("--ran", type=Path, metavar="FILE", help="gcov's JSON of the kernel on the emulator")
    args = parser.parse_args()
    found_tools = {"nvcc": shutil.which("nvcc"), "cmake": shutil.which("cmake"), "nvdisasm": sass.tool("nvdisasm")}
    if missing := [tool for tool, path in found_tools.items() if not path]:
        print(f"gpu_code: not run, it needs {', '.join(missing)} on PATH", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as made:
        found = attributed(ROOT / "csrc" / "cuda" / f"{args.source}.cu", args.arch, Path(made))
    coverage = parse_coverage(args.ran.read_text()) if args.ran else {}
    for mangled, code in found.items():
        name = readable(mangled)
        if not args.kernel or name in args.kernel:
            print(table(name, code, args.through or headers(code), coverage))
    return 0


if __name__ == "__main__":
    sys.exit(main())
