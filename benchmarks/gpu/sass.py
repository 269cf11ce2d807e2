"""Machine code of a CUDA kernel: its basic blocks, and its loads of inputs.

It needs cuobjdump: on PATH (the CUDA toolkit's), or the one in Triton's package.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

_INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_LEAVES = ("BRA", "BRX", "JMP", "CALL", "RET", "EXIT")  # end a block
_NAMES = (*_LEAVES, "BSSY")  # hold an address where another one starts
WIDE = 16  # bytes a lane


class Instruction(NamedTuple):
    address: int
    predicate: str  # "" where it always runs
    name: str  # with its modifiers
    operands: str


class TileRead(NamedTuple):
    """The block that reads a whole tile of bf16 inputs and tests it."""

    loads: int  # of 16 bytes a lane, each executed once by every warp that gets here
    other_loads: int  # of global memory, in the same block
    loaded: frozenset[str]  # registers
    tested: tuple[str, ...]  # registers squared by the test, once for each time


def disassembler() -> str | None:
    """Returns the path of a cuobjdump, or None."""
    if found := shutil.which("cuobjdump"):
        return found
    spec = importlib.util.find_spec("triton")
    for place in (spec and spec.submodule_search_locations) or ():
        tool = Path(place) / "backends" / "nvidia" / "bin" / "cuobjdump"
        if tool.exists():
            return str(tool)
    return None


def cuobjdump(option: str, library: Path, arch: int | None = None) -> str:
    """Returns cuobjdump's report on a library; `arch` is a compute capability without the point."""
    tool = disassembler()
    if tool is None:
        raise RuntimeError("cuobjdump: expected it on PATH or in Triton's package, found neither")
    chip = [] if arch is None else ["-arch", f"sm_{arch}"]
    return subprocess.run([tool, option, *chip, str(library)], capture_output=True, text=True, check=True).stdout


@cache  # takes a quarter of a minute
def disassembled(library: Path, arch: int) -> dict[str, list[Instruction]]:
    """Returns mangled name of each function -> its instructions, by address."""
    return parse(cuobjdump("-sass", library, arch))


def parse(text: str) -> dict[str, list[Instruction]]:
    """Parses `cuobjdump -sass`."""
    found: dict[str, list[Instruction]] = {}
    own: list[Instruction] = []
    for line in text.splitlines():
        if match := re.search(r"Function : (\w+)", line):
            own = found.setdefault(match[1], [])
        elif match := _INSTRUCTION.match(line):
            own.append(Instruction(int(match[1], 16), match[2] or "", match[3], match[4]))
    return found


def blocks(code: list[Instruction]) -> list[list[Instruction]]:
    """Returns basic blocks: control enters at the first instruction and leaves after the last."""
    entries = {
        int(address, 16)
        for i in code
        if i.name.split(".")[0] in _NAMES
        for address in re.findall(r"\b0x([0-9a-f]+)\b", i.operands)
    }
    found: list[list[Instruction]] = [[]]
    for i in code:
        if i.address in entries and found[-1]:
            found.append([])
        found[-1].append(i)
        if i.name.split(".")[0] in _LEAVES:
            found.append([])
    return [block for block in found if block]


def local_accesses(code: list[Instruction]) -> int:
    """Counts loads and stores of local memory: spills, and arrays with an unknown index."""
    return sum(i.name.split(".")[0] in ("LDL", "STL") for i in code)


def _is_input(i: Instruction) -> bool:
    """True for a load of 16 bytes of read-only memory past the L1, the same on sm_80 and later."""
    parts = i.name.split(".")
    return parts[0] == "LDG" and {"128", "NA", "CONSTANT"} <= set(parts)


def global_loads(code: list[Instruction]) -> tuple[int, int]:
    """Counts loads of inputs, and all others of global memory."""
    loads = [_is_input(i) for i in code if i.name.startswith("LDG")]
    return sum(loads), len(loads) - sum(loads)


def tile_reads(code: list[Instruction]) -> list[TileRead]:
    """Returns blocks that load inputs and square them as pairs of bf16, as only the test of a whole tile does."""
    found = []
    for block in blocks(code):
        tested = [register for i in block for register in _squared(i)]
        loads = [i for i in block if _is_input(i)]
        if not tested or not loads:
            continue
        first = [int(i.operands[1:].split(",")[0]) for i in loads]
        loaded = frozenset(f"R{n + j}" for n in first for j in range(WIDE // 4))
        others = sum(i.name.startswith("LDG") and not _is_input(i) for i in block)
        found.append(TileRead(sum(not i.predicate for i in loads), others, loaded, tuple(tested)))
    return found


def _squared(i: Instruction) -> list[str]:
    """Returns the register whose pair of bf16 an HFMA2 multiplies by itself."""
    if not i.name.startswith("HFMA2") or "BF16" not in i.name:
        return []
    registers = re.findall(r"\bR(?:\d+|Z)\b", i.operands)
    return [registers[1]] if len(registers) >= 3 and registers[1] == registers[2] else []
