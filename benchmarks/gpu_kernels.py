"""Do the CUDA kernels spill, and how many registers, bytes, fences and loads does each have in libeft's machine code?

    python benchmarks/gpu_kernels.py                                   # sm_90
    python benchmarks/gpu_kernels.py --arch 80 90 100 --page           # writes docs/internals/cuda-kernels.md
    python benchmarks/gpu_kernels.py --arch 80 90 100 --check          # says whether that page still holds

Reads eft_ext/libeft.so as it was built. Needs a disassembler (gpu/sass.py) and nvcc for the sizes of shared memory; no
GPU. The baseline of --check is the page; the limits are in the tests of the kernels. No time is measured.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.checkout import LIBRARY, ROOT, newer_sources
from gpu import sass

PAGE = ROOT / "docs" / "internals" / "cuda-kernels.md"
TILE_SHARED = (32 + 1024) * 4  # resident.cuh: group maxima and z


@dataclass(frozen=True)
class Kernel:
    """One instantiation on one architecture."""

    name: str
    arch: int
    code_bytes: int
    registers: int
    stack_bytes: int
    local_accesses: int  # spills, and arrays with an index that is not known
    fences: tuple[int, int, int]  # sass.fences
    input_loads: int  # 16 bytes each, past the L1
    tile_loads: int  # of them, in the block that reads a whole tile
    other_loads: int  # of global memory
    in_flight: tuple[int, int]  # sass.in_flight


def readable(mangled: str) -> str:
    """Returns stream_kernel<3, false> for _ZN3eft...13stream_kernelILi3ELb0EEEvNS0_4PlanE."""
    found = re.search(r"\d([a-z_]+_kernel)(?:I((?:L[ib]\d+E)+)E|E)", mangled)
    if not found:
        return mangled
    if not found[2]:
        return found[1]
    values = [value if kind == "i" else ("false", "true")[int(value)] for kind, value in
              re.findall(r"L([ib])(\d+)E", found[2])]  # fmt: skip
    return f"{found[1]}<{', '.join(values)}>"


def built_for() -> list[int]:
    """Returns the architectures in libeft; none where it has no CUDA kernels or is not there."""
    if not LIBRARY.exists() or not sass.tool("cuobjdump"):
        return []
    try:
        listed = sass.cuobjdump("-lelf", LIBRARY)
    except subprocess.CalledProcessError:  # it has no device code at all
        return []
    return sorted({int(sm) for sm in re.findall(r"\.sm_(\d+)\.cubin", listed)})


def parse_resources(text: str) -> dict[str, tuple[int, int]]:
    """Parses `cuobjdump -res-usage`: mangled name → registers, bytes of stack."""
    found = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+)", text)
    return {name: (int(registers), int(stack)) for name, registers, stack in found}


def shared_bytes() -> dict[str, int]:
    """Returns the shared memory of a block by kernel, which is set at launch and not in the machine code.
    Resident kernels add `TILE_SHARED` for each tile that a block owns."""
    work = dict.fromkeys(("stream_kernel", "resident_kernel", "top_ids_kernel"), "RowWork")
    work |= {"verify_stream_kernel": "SlotWork", "verify_decide_kernel": "DecideWork"}
    work |= dict.fromkeys(("score_kernel", "compare_kernel"), "ScoreWork")
    sizes = "".join(f"__device__ unsigned {name}_bytes = sizeof(eft::{own});\n" for name, own in work.items())
    with tempfile.TemporaryDirectory() as made:
        source, ptx = Path(made) / "sizes.cu", Path(made) / "sizes.ptx"
        headers = ("score/work.cuh", "step/row_work.cuh", "verify/residual.cuh", "verify/slot.cuh")
        source.write_text("".join(f'#include "cuda/{name}"\n' for name in headers) + sizes)
        flags = ["-std=c++17", "--diag-suppress=177", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}"]
        command = ["nvcc", *flags, "-arch=sm_80", "-ptx", str(source), "-o", str(ptx)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        found = {name: int(size) for name, size in re.findall(r"(\w+)_bytes = (\d+);", ptx.read_text())}
    assert found.keys() == work.keys(), found
    return found


def kernels(arch: int) -> list[Kernel]:
    """Returns all kernels of an architecture, sorted by name."""
    resources = parse_resources(sass.cuobjdump("-res-usage", LIBRARY, arch))
    found = []
    for mangled, code in sass.disassembled(LIBRARY, arch).items():
        name = readable(mangled)
        if name.startswith("resident") and arch < 90:
            continue  # no clusters there: an empty kernel
        registers, stack = resources[mangled]
        inputs, others = sass.global_loads(code)
        tile = max((read.loads for read in sass.tile_reads(code)), default=0)
        found.append(Kernel(name, arch, len(code) * sass.BYTES, registers, stack, sass.local_accesses(code),
                            sass.fences(code), inputs, tile, others, sass.in_flight(code)))  # fmt: skip
    return sorted(found, key=lambda k: k.name)


def table(found: list[Kernel], shared: dict[str, int]) -> str:
    """Returns a Markdown table, a line for each kernel; `shared` as `shared_bytes` gives it."""
    head = ["kernel", "sm", "code", "registers", "shared memory", "stack, local", "fences", "loads", "in flight"]
    lines = [head, ["---"] * len(head)]
    for k in found:
        block = str(shared.get(k.name.split("<")[0], 0)) + f" + {TILE_SHARED} a tile" * k.name.startswith("resident")
        row = [f"`{k.name}`", k.arch, k.code_bytes, k.registers, block, (k.stack_bytes, k.local_accesses), k.fences,
               (k.input_loads, k.tile_loads, k.other_loads), k.in_flight]  # fmt: skip
        lines.append([str(cell).strip("()") for cell in row])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def page(table: str) -> str:
    """Returns the text of docs/internals/cuda-kernels.md."""
    said = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    release = re.search(r"release [\d.]+, V([\d.]+)", said)
    version = release[1] if release else "?"
    return f"""# The CUDA kernels' machine code

Registers, code size, spills, fences and loads of every CUDA kernel, read from the machine code of the library as
built with nvcc {version}. `python benchmarks/gpu_kernels.py --arch 80 90 100 --page` writes this page, and `--check`
compares it with the library. `python_tests/ops/test_cuda_kernels.py` checks the limits.

Kernels:

- `stream_kernel<K, conservative>` and `resident_kernel<K>` serve K bf16 models. K = 0 takes any dtypes, bias and
  bitmask.
- `verify_*` serve the verification (`<conservative>`).
- `score_kernel` and `compare_kernel` score, for any number of models.
- `advance_kernel` ends a decoding step. `again_kernel` decides if the WHILE loop runs another one.

Columns:

- Code: bytes of machine code. Registers a thread. Shared memory a block.
- Stack, local: bytes of stack a thread; `LDL` and `STL`. A spill would be among them.
- Fences: `MEMBAR.SC`; other `MEMBAR`; `CCTL.IVALL`, which empties the L1.
- Loads: instructions that load 16 bytes of inputs; those of them in a tile's block; all other loads of global memory.
- In flight: the most loads of 16 bytes in a row before the first of them is needed, outside of a tile's block. The
  first number is for inputs, the second for data that the launch wrote, such as a row's group maxima.

A tile's block is the straight-line code that reads a whole tile. It has 4 K loads: 1024 tokens of K models by 32
lanes. Each word that they load is tested once. The other loads read misaligned rows, other dtypes, and the groups of
a row's candidates a second time.

{table}"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[90])
    parser.add_argument("--page", action="store_true", help="write docs/internals/cuda-kernels.md")
    parser.add_argument("--check", action="store_true", help="compare with docs/internals/cuda-kernels.md")
    args = parser.parse_args()
    if not shutil.which("nvcc"):
        print("gpu_kernels: not run, it needs nvcc on PATH", file=sys.stderr)
        return 2
    if missing := set(args.arch) - set(built_for()):
        named = ", ".join(f"sm_{arch}" for arch in sorted(missing))
        print(f"gpu_kernels: not run, eft_ext/libeft.so has no machine code for {named}", file=sys.stderr)
        return 2
    if newer := newer_sources("common", "cuda", "include"):
        print(f"gpu_kernels: not run, eft_ext/libeft.so is older than {newer[0]}", file=sys.stderr)
        return 2
    found = [kernel for arch in args.arch for kernel in kernels(arch)]
    made = table(found, shared_bytes())
    print(made)
    if args.page:
        PAGE.write_text(page(made))
    if args.check and PAGE.read_text() != page(made):
        print(f"gpu_kernels: {PAGE.relative_to(ROOT)} differs", file=sys.stderr)
        return 1
    return int(any(k.stack_bytes or k.local_accesses for k in found))


if __name__ == "__main__":
    sys.exit(main())
