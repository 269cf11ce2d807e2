"""Machine code of a CUDA kernel: its basic blocks, fences, and loads of global memory.

It needs cuobjdump, and nvdisasm for source_lines.py: on PATH (the CUDA toolkit's), or those in Triton's package.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Container
from functools import cache
from pathlib import Path
from typing import NamedTuple

_INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_LEAVES = ("BRA", "BRX", "JMP", "CALL", "RET", "EXIT")  # end a block
_NAMES = (*_LEAVES, "BSSY")  # hold an address where another one starts
WIDE = 16  # bytes a lane
BYTES = 16  # an instruction


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


def tool(name: str) -> str | None:
    """Returns the path of cuobjdump or nvdisasm, or None."""
    if found := shutil.which(name):
        return found
    spec = importlib.util.find_spec("triton")
    for place in (spec and spec.submodule_search_locations) or ():
        path = Path(place) / "backends" / "nvidia" / "bin" / name
        if path.exists():
            return str(path)
    return None


def cuobjdump(option: str, library: Path, arch: int | None = None) -> str:
    """Returns cuobjdump's report on a library; `arch` is a compute capability without the point."""
    chip = [] if arch is None else ["-arch", f"sm_{arch}"]
    return report("cuobjdump", option, *chip, str(library))


def report(name: str, *arguments: str) -> str:
    """Returns what cuobjdump or nvdisasm prints."""
    path = tool(name)
    if path is None:
        raise RuntimeError(f"{name}: expected it on PATH or in Triton's package, found neither")
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


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
        if _leaves(i):
            found.append([])
    return [block for block in found if block]


def local_accesses(code: list[Instruction]) -> int:
    """Counts loads and stores of local memory: spills, and arrays with an unknown index."""
    return sum(i.name.split(".")[0] in ("LDL", "STL") for i in code)


def _is_input(i: Instruction) -> bool:
    """True for a load of 16 bytes of read-only memory past the L1, the same on sm_80 and later."""
    parts = i.name.split(".")
    return parts[0] == "LDG" and {"128", "NA", "CONSTANT"} <= set(parts)


def _is_written(i: Instruction) -> bool:
    """True for a load of 16 bytes of memory that the launch itself writes, as a row's maxima."""
    parts = i.name.split(".")
    return parts[0] == "LDG" and "128" in parts and "CONSTANT" not in parts


def fences(code: list[Instruction]) -> tuple[int, int, int]:
    """Counts sequentially consistent fences, all other fences, and invalidations of the whole L1."""
    parts = [i.name.split(".") for i in code]
    consistent = sum(p[:2] == ["MEMBAR", "SC"] for p in parts)
    return consistent, sum(p[0] == "MEMBAR" for p in parts) - consistent, sum(p[:2] == ["CCTL", "IVALL"] for p in parts)


def in_flight(code: list[Instruction], counted: Container[int] | None = None) -> tuple[int, int]:
    """Returns the most loads of 16 bytes in a row before one of them is needed, past predicated branches: of inputs
    outside of a tile's block; of what the launch wrote. Only loads at the addresses in `counted`, if it is given."""
    tiles = {i.address for block in blocks(code) if _tile_read(block) for i in block}
    others = [i for i in code if i.address not in tiles]
    loads = [i for i in others if counted is None or i.address in counted]
    inputs = {i.address for i in loads if _is_input(i)}
    written = {i.address for i in loads if _is_written(i)}
    return _longest_run(others, inputs), _longest_run(others, written)


def _longest_run(code: list[Instruction], loads: set[int]) -> int:
    longest = run = 0
    loaded: frozenset[int] = frozenset()
    for before, i in zip([None, *code], code, strict=False):
        goes_on = before is None or (before.address + BYTES == i.address and not _always_leaves(before))
        if not goes_on or (run and loaded & _registers(i.operands)):
            run, loaded = 0, frozenset()
        if i.address in loads:
            run += 1
            loaded = loaded.union(_loaded(i))
            longest = max(longest, run)
    return longest


@cache
def _registers(operands: str) -> frozenset[int]:
    return frozenset(int(number) for number in re.findall(r"\bR(\d+)", operands))


def _leaves(i: Instruction) -> bool:
    return i.name.split(".")[0] in _LEAVES


def _always_leaves(i: Instruction) -> bool:
    return _leaves(i) and not i.predicate and i.name != "BRA.DIV"  # that one goes on unless lanes have diverged


def _loaded(i: Instruction) -> range:
    """Returns the numbers of the registers that a load of 16 bytes writes."""
    first = int(i.operands[1:].split(",")[0])
    return range(first, first + WIDE // 4)


def global_loads(code: list[Instruction]) -> tuple[int, int]:
    """Counts loads of inputs, and all others of global memory."""
    loads = [_is_input(i) for i in code if i.name.startswith("LDG")]
    return sum(loads), len(loads) - sum(loads)


def tile_reads(code: list[Instruction]) -> list[TileRead]:
    """Returns blocks that load inputs and square them as pairs of bf16, as only the test of a whole tile does."""
    return [read for block in blocks(code) if (read := _tile_read(block))]


def _tile_read(block: list[Instruction]) -> TileRead | None:
    tested = [register for i in block for register in _squared(i)]
    loads = [i for i in block if _is_input(i)]
    if not tested or not loads:
        return None
    loaded = frozenset(f"R{number}" for i in loads for number in _loaded(i))
    others = sum(i.name.startswith("LDG") and not _is_input(i) for i in block)
    return TileRead(sum(not i.predicate for i in loads), others, loaded, tuple(tested))


def _squared(i: Instruction) -> list[str]:
    """Returns the register whose pair of bf16 an HFMA2 multiplies by itself."""
    if not i.name.startswith("HFMA2") or "BF16" not in i.name:
        return []
    registers = re.findall(r"\bR(?:\d+|Z)\b", i.operands)
    return [registers[1]] if len(registers) >= 3 and registers[1] == registers[2] else []
