"""What each CUDA kernel takes of the chip, as the compiler says: registers, shared memory, stack, spills, loads.

    python benchmarks/gpu_kernels.py                                   # sm_90, the kernels of csrc/cuda
    python benchmarks/gpu_kernels.py --arch 80 90 100 --table docs/cuda-kernels.md

Needs nvcc, and no GPU. A compilation is kept in build/kernels until a source changes. Loads are counted in PTX: 16-byte
loads past the L1 (of inputs, each read once), and all others of global memory.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CUDA = ROOT / "csrc" / "cuda"
KEPT = ROOT / "build" / "kernels"
FILES = ("stream.cu", "resident.cu", "score.cu")
FLAGS = ["-std=c++17", "-O3", "--fmad=false", "--diag-suppress=177", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}"]
INPUT_LOAD = "ld.global.nc.L1::no_allocate.v4"


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


def readable(mangled: str) -> str:
    """stream_kernel<3, false> from _ZN3eft...13stream_kernelILi3ELb0EEEvNS0_4PlanE; not all are templates."""
    found = re.search(r"\d([a-z_]+_kernel)I((?:L[ib]\d+E)+)E", mangled)
    if not found:
        plain = re.search(r"\d([a-z_]+_kernel)E", mangled)
        return plain[1] if plain else mangled
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


def _key(file: str, arch: int) -> str:
    sources = sorted([*CUDA.glob("*.h"), CUDA / file, *(ROOT / "csrc" / "common").glob("*.h")])
    text = b"".join(path.read_bytes() for path in sources) + repr((FLAGS, arch)).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def compiled(file: str, arch: int) -> tuple[str, str]:
    """The compiler's report and the PTX of one file."""
    base = KEPT / f"{Path(file).stem}-{arch}-{_key(file, arch)}"
    log, ptx = base.with_suffix(".log"), base.with_suffix(".ptx")
    if not log.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        common = ["nvcc", *FLAGS, f"-arch=sm_{arch}", str(CUDA / file)]
        subprocess.run([*common, "-ptx", "-o", str(ptx)], check=True, capture_output=True)
        cubin = ["ptxas", "-v", f"-arch=sm_{arch}", "--fmad", "false", str(ptx), "-o", str(base.with_suffix(".cubin"))]
        done = subprocess.run(cubin, check=True, capture_output=True, text=True)
        log.write_text(done.stdout + done.stderr)
    return log.read_text(), ptx.read_text()


def kernels(arch: int, jobs: int = 2) -> list[Kernel]:
    """All kernels of an architecture, by name."""
    with ThreadPoolExecutor(jobs) as pool:
        outputs = list(pool.map(lambda file: compiled(file, arch), FILES))
    found = []
    for log, ptx in outputs:
        loads = parse_loads(ptx)
        for name, values in parse_resources(log).items():
            found.append(Kernel(readable(name), arch, **values, **loads[name]))
    return sorted(found, key=lambda k: k.name)


def table(found: list[Kernel]) -> str:
    """Markdown, a line for each kernel."""
    head = ["kernel", "sm", "registers", "stack", "spills", "16-byte input loads", "other global loads"]
    lines = [head, ["---"] * len(head)]
    for k in found:
        spills = k.spill_store_bytes + k.spill_load_bytes
        lines.append(list(map(str, [f"`{k.name}`", k.arch, k.registers, k.stack_bytes, spills, k.input_loads,
                                    k.other_loads])))  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[90])
    parser.add_argument("--table", type=Path, help="write the table here")
    args = parser.parse_args()
    if not shutil.which("nvcc"):
        print("gpu_kernels: not run, it needs nvcc on PATH", file=sys.stderr)
        return 2
    try:
        found = [kernel for arch in args.arch for kernel in kernels(arch)]
    except subprocess.CalledProcessError as error:
        print(f"gpu_kernels: {error}\n{error.stderr}", file=sys.stderr)
        return 1
    text = table(found)
    print(text)
    if args.table:
        args.table.write_text(text)
    return int(any(asdict(k)[name] for k in found for name in ("stack_bytes", "spill_store_bytes", "spill_load_bytes")))


if __name__ == "__main__":
    sys.exit(main())
