"""What each CUDA kernel takes of the chip, as the compiler says: registers, shared memory, stack, spills, loads.

    python benchmarks/gpu_kernels.py                                   # sm_90, the kernels of csrc/cuda
    python benchmarks/gpu_kernels.py --arch 80 90 100 --page           # writes docs/cuda-kernels.md
    python benchmarks/gpu_kernels.py --arch 80 90 100 --check          # says whether that page still holds

Needs nvcc, and no GPU. A compilation is kept in build/kernels until a source changes. Loads are counted in PTX: 16-byte
loads past the L1 (of inputs, each read once), and all others of global memory. Where there is a disassembler (sass.py),
the machine code says how a tile is read and whether anything touches local memory.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import sass

ROOT = Path(__file__).parents[1]
CUDA = ROOT / "csrc" / "cuda"
PAGE = ROOT / "docs" / "cuda-kernels.md"
KEPT = ROOT / "build" / "kernels"
FILES = ("stream.cu", "resident.cu")  # of the step
ALL_FILES = (*FILES, "verify.cu", "score.cu")
FLAGS = ["-std=c++17", "-O3", "--fmad=false", "--diag-suppress=177", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}"]
INPUT_LOAD = "ld.global.nc.L1::no_allocate.v4"
TILE_SHARED = (32 + 1024) * 4  # resident.h: group maxima and z


@dataclass(frozen=True)
class Kernel:
    """One instantiation on one architecture."""

    name: str
    arch: int
    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    input_loads: int  # 16 bytes each, of bf16 inputs on 16-byte boundaries
    other_loads: int  # of global memory
    shared_bytes: int  # of a block; resident kernels add `TILE_SHARED` for each tile that a block owns
    local_accesses: int | None = None  # in machine code; None: no disassembler
    tile_loads: int | None = None  # of 16 bytes a lane, in the block that reads a whole tile


def readable(mangled: str) -> str:
    """stream_kernel<3, false> from _ZN3eft...13stream_kernelILi3ELb0EEEvNS0_4PlanE."""
    found = re.search(r"\d([a-z_]+_kernel)(?:I((?:L[ib]\d+E)+)E|E)", mangled)
    if not found:
        return mangled
    if not found[2]:
        return found[1]
    values = [value if kind == "i" else ("false", "true")[int(value)] for kind, value in
              re.findall(r"L([ib])(\d+)E", found[2])]  # fmt: skip
    return f"{found[1]}<{', '.join(values)}>"


def parse_resources(log: str) -> dict[str, dict[str, int]]:
    """From `-Xptxas -v`: mangled name → registers, stack, spills."""
    found: dict[str, dict[str, int]] = {}
    properties: dict[str, tuple[int, ...]] = {}
    entry = function = ""
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            entry = match[1]
        elif match := re.search(r"Function properties for (\w+)", line):
            function = match[1]
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            properties[function] = tuple(map(int, match.groups()))
        elif match := re.search(r"Used (\d+) registers", line):
            found[entry] = {"registers": int(match[1])}
    # A function that was not inlined has properties of its own, which count for every kernel of its file.
    others = [p for name, p in properties.items() if name not in found]
    for name, values in found.items():
        own = [properties[name], *others]
        stack, stores, loads = (max(column) for column in zip(*own, strict=True))
        values |= {"stack_bytes": stack, "spill_store_bytes": stores, "spill_load_bytes": loads}
    return found


def parse_loads(ptx: str) -> dict[str, dict[str, int]]:
    """From PTX: mangled name → loads of inputs, other loads of global memory."""
    found = {}
    for match in re.finditer(r"^\.?\w* *\.entry (\w+)\(.*?\n\{\n(.*?)^\}", ptx, re.MULTILINE | re.DOTALL):
        inputs, every = match[2].count(INPUT_LOAD), len(re.findall(r"\bld\.global", match[2]))
        found[match[1]] = {"input_loads": inputs, "other_loads": every - inputs}
    return found


def _key(file: str) -> str:
    sources = sorted([*CUDA.glob("*.h"), CUDA / file, *(ROOT / "csrc" / "common").glob("*.h")])
    text = b"".join(path.read_bytes() for path in sources) + repr(FLAGS).encode()
    return hashlib.sha256(text).hexdigest()[:16]


class Compiled(NamedTuple):
    """What came of one file."""

    log: str  # the compiler's report
    ptx: str
    cubin: Path


def compiled(file: str, arch: int) -> Compiled:
    """Compiles as the build does (csrc/libeft.cmake): all chips have their machine code from one PTX."""
    virtual = 90 if file == "resident.cu" and arch >= 90 else 80
    base = f"{Path(file).stem}-{_key(file)}"
    ptx, log, machine = (KEPT / f"{base}-{end}" for end in (f"{virtual}.ptx", f"{arch}.log", f"{arch}.cubin"))
    if not log.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        if not ptx.exists():
            common = ["nvcc", *FLAGS, f"-arch=compute_{virtual}", str(CUDA / file)]
            subprocess.run([*common, "-ptx", "-o", str(ptx)], check=True, capture_output=True)
        cubin = ["ptxas", "-v", f"-arch=sm_{arch}", "--fmad", "false", str(ptx), "-o", str(machine)]
        done = subprocess.run(cubin, check=True, capture_output=True, text=True)
        log.write_text(done.stdout + done.stderr)
    return Compiled(log.read_text(), ptx.read_text(), machine)


@cache
def shared_bytes() -> dict[str, int]:
    """The shared memory of a block, by kernel: it is asked for at launch, so no report of the compiler has it."""
    work = {"stream_kernel": "RowWork", "resident_kernel": "RowWork", "verify_stream_kernel": "SlotWork",
            "verify_decide_kernel": "DecideWork", "score_kernel": "ScoreWork",
            "compare_kernel": "ScoreWork"}  # fmt: skip
    source = KEPT / "shared_bytes.cu"
    KEPT.mkdir(parents=True, exist_ok=True)
    sizes = "".join(f"__device__ unsigned {name}_bytes = sizeof(eft::{own});\n" for name, own in work.items())
    source.write_text(f'#include "cuda/verify_layout.h"\n#include "cuda/score_compare.h"\n{sizes}')
    ptx = source.with_suffix(".ptx")
    subprocess.run(
        ["nvcc", *FLAGS, "-arch=sm_80", "-ptx", str(source), "-o", str(ptx)], check=True, capture_output=True
    )
    found = {name: int(size) for name, size in re.findall(r"(\w+)_bytes = (\d+);", ptx.read_text())}
    assert found.keys() == work.keys(), f"{ptx} says {found}"
    return found


def kernels(arch: int, jobs: int = 2, files: tuple[str, ...] = ALL_FILES) -> list[Kernel]:
    """All kernels of an architecture, by name."""
    with ThreadPoolExecutor(jobs) as pool:
        outputs = list(pool.map(lambda file: compiled(file, arch), files))
    found = []
    for made in outputs:
        loads, code = parse_loads(made.ptx), sass.disassembled(made.cubin) if sass.disassembler() else {}
        for name, values in parse_resources(made.log).items():
            if "resident" in name and arch < 90:
                continue  # no clusters there: an empty kernel
            plain = readable(name)
            block = shared_bytes()[plain.split("<")[0]]
            kernel = Kernel(plain, arch, **values, **loads[name], shared_bytes=block)
            if name in code:
                reads = sass.tile_reads(code[name])
                most = max((read.loads for read in reads), default=0)
                kernel = replace(kernel, local_accesses=sass.local_accesses(code[name]), tile_loads=most)
            found.append(kernel)
    return sorted(found, key=lambda k: k.name)


def table(found: list[Kernel]) -> str:
    """Markdown, a line for each kernel."""
    head = ["kernel", "sm", "registers", "shared memory", "stack", "spills", "16-byte input loads",
            "of a tile's block", "other global loads", "local accesses"]  # fmt: skip
    lines = [head, ["---"] * len(head)]
    for k in found:
        shared = f"{k.shared_bytes} + {TILE_SHARED} a tile" if k.name.startswith("resident") else str(k.shared_bytes)
        spills = k.spill_store_bytes + k.spill_load_bytes
        tile, local = ("not known" if x is None else x for x in (k.tile_loads, k.local_accesses))
        row = [f"`{k.name}`", k.arch, k.registers, shared, k.stack_bytes, spills, k.input_loads, tile, k.other_loads,
               local]  # fmt: skip
        lines.append(list(map(str, row)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def page(found: list[Kernel]) -> str:
    """docs/cuda-kernels.md."""
    said = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    release = re.search(r"release [\d.]+, V([\d.]+)", said)
    version = release[1] if release else "?"
    return f"""# What the compiler makes of the CUDA kernels

Written by `python benchmarks/gpu_kernels.py --arch 80 90 100 --page`, with nvcc {version}; `--check` says whether it
still holds, and `python_tests/ops/test_cuda_kernels.py` holds the limits. `stream_kernel<K, conservative>` and
`resident_kernel<K>` are made for K bf16 models; K = 0 takes any dtypes, bias and bitmask. `verify_*` are the
verification's (`<conservative>`), `score_kernel` and `compare_kernel` scoring's, for any number of models. Registers a
thread, shared memory a block, stack and spills in bytes a thread. Loads are instructions. "Of a tile's block" are those
of 16 bytes a lane in the straight-line code that reads a whole tile: 4 K, which is 1024 tokens of K models by 32 lanes,
and each word they load is tested once. The others read misaligned rows, other dtypes, and the groups of a row's
candidates again. "Local accesses" are `LDL` and `STL` in the machine code.

{table(found)}"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[90])
    parser.add_argument("--page", action="store_true", help="write docs/cuda-kernels.md")
    parser.add_argument("--check", action="store_true", help="compare with docs/cuda-kernels.md")
    args = parser.parse_args()
    if not shutil.which("nvcc"):
        print("gpu_kernels: not run, it needs nvcc on PATH", file=sys.stderr)
        return 2
    try:
        found = [kernel for arch in args.arch for kernel in kernels(arch)]
    except subprocess.CalledProcessError as error:
        print(f"gpu_kernels: {error}\n{error.stderr}", file=sys.stderr)
        return 1
    print(table(found))
    if args.page:
        PAGE.write_text(page(found))
    if args.check and PAGE.read_text() != page(found):
        print(f"gpu_kernels: {PAGE.relative_to(ROOT)} differs", file=sys.stderr)
        return 1
    bad = ("stack_bytes", "spill_store_bytes", "spill_load_bytes", "local_accesses")
    return int(any(asdict(k)[name] for k in found for name in bad))


if __name__ == "__main__":
    sys.exit(main())
