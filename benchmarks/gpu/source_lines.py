"""The source lines that a CUDA kernel's machine code comes from, with the calls that were inlined.

It compiles one source as the build does, with line numbers: needs nvcc, cmake, cuobjdump and nvdisasm (sass.py).
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from common.checkout import ROOT

from gpu import sass


class Line(NamedTuple):
    file: str  # below csrc, or a path of the CUDA toolkit
    number: int


Stack = tuple[Line, ...]  # the line of an instruction, then the calls around it; empty in the compiler's own functions


class Attributed(NamedTuple):
    instruction: sass.Instruction
    stack: Stack


def attributed(source: Path, arch: int, made: Path) -> dict[str, list[Attributed]]:
    """Returns mangled name of each kernel of a source -> its instructions; `made` is a folder for the compiler."""
    cubin = compiled(source, arch, made)
    stacks = parse(sass.report("nvdisasm", "-c", "-gi", str(cubin)))
    code = sass.disassembled(cubin, arch)
    return {name: [Attributed(i, stacks[name][i.address]) for i in own] for name, own in code.items()}


def compiled(source: Path, arch: int, made: Path) -> Path:
    """Compiles a source for one chip by the command of the default build, with line numbers."""
    configure = ["cmake", "-S", str(ROOT), "-B", str(made), "-DEFT_PYTHON=OFF"]
    subprocess.run([*configure, "-DCMAKE_CUDA_COMPILER_LAUNCHER="], check=True, capture_output=True)
    built = json.loads((made / "compile_commands.json").read_text())
    (command,) = [entry["command"] for entry in built if Path(entry["file"]) == source]
    cubin = made / "kernels.cubin"
    subprocess.run(cubin_command(shlex.split(command), arch, cubin), cwd=made, check=True, capture_output=True)
    return cubin


def cubin_command(command: list[str], arch: int, cubin: Path) -> list[str]:
    """Returns the command that makes a cubin for one chip, from one that makes an object for several."""
    flags = command[: command.index("-c")]
    others = [flag for flag in flags if flag.startswith("-gencode") and not flag.endswith(f"code=sm_{arch}")]
    source = command[command.index("-c") + 1]
    return [*(flag for flag in flags if flag not in others), "-lineinfo", "-cubin", source, "-o", str(cubin)]


def parse(text: str) -> dict[str, dict[int, Stack]]:
    """Parses `nvdisasm -c -gi`: mangled name of a kernel -> address -> where the instruction comes from."""
    found: dict[str, dict[int, Stack]] = {}
    own: dict[int, Stack] = {}
    stack: list[Line] = []
    starts = True  # the next line of a source is an instruction's own
    for line in text.splitlines():
        if match := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            own = found.setdefault(match[1], {})
        elif re.match(r"[\w$]\S*:", line):  # a function, among them those that are called
            stack, starts = [], True
        elif match := re.match(r'\s*//## File "(.*?)", line (\d+)', line):
            stack = stack * (not starts) + [Line(match[1].removeprefix(f"{ROOT / 'csrc'}/"), int(match[2]))]
            starts = False
        elif match := re.match(r"\s+/\*([0-9a-f]{4,})\*/", line):
            own[int(match[1], 16)] = tuple(stack)
            starts = True
    return found


def parse_coverage(text: str) -> dict[Line, bool]:
    """Parses gcov's JSON: each line of csrc that has a counter -> whether it ran."""
    found: dict[Line, bool] = {}
    for file in json.loads(text)["files"]:
        _, in_csrc, name = file["file"].rpartition("/csrc/")
        for line in file["lines"] if in_csrc else ():
            at = Line(name, line["line_number"])
            found[at] = found.get(at, False) or line["count"] > 0  # a line for each instantiation
    return found


def ran(stack: Stack, coverage: dict[Line, bool]) -> bool:
    """True if all lines of a stack ran. Lines without a counter, as those of CUDA's headers, say nothing."""
    counted = [coverage[line] for line in stack if line in coverage]
    return bool(counted) and all(counted)
