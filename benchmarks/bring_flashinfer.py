"""Makes a small folder of FlashInfer's sampling for a GPU machine without network, compiled where nvcc is.

    python benchmarks/bring_flashinfer.py                        # pip fetches the wheels, 65 MB; 14 are kept
    python benchmarks/bring_flashinfer.py --wheel-dir wheels     # both wheels are in a folder
    python benchmarks/bring_flashinfer.py --build                # on the GPU machine, if nothing was compiled before

It keeps the sampling functions, the modules they import, their CUDA sources and every header these reach. FlashInfer
binds through tvm-ffi, so what nvcc makes depends neither on torch nor on Python. It takes one core 15 minutes; then
FlashInfer loads it from data/aot and needs no sources. Git ignores the folder: nothing fetched is ever committed. It
measures nothing: gpu_step.py times FlashInfer as a baseline.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

PLATFORMS = [f"--platform=manylinux{x}_x86_64" for x in ("_2_28", "_2_27", "_2_24", "_2_17", "2014")]
ENTRY, DATA = "flashinfer/sampling.py", "flashinfer/data"
STUBS = ("flashinfer/__init__.py", "flashinfer/jit/__init__.py")  # the wheel's own import all of FlashInfer
COMPILED = ("sampling", "topk")  # each has flashinfer/jit/NAME.py; top-k before top-p needs both
VERSION, LEFT_OUT = "0.7.2.post1", "cub_topk.cu"  # over 40 minutes of nvcc; not called for the sorted top-k of sampling
HEADERS = ("include", "csrc", "cccl/cub", "cccl/libcudacxx/include", "cccl/thrust", "cutlass/include", "spdlog/include")
NOTICES = re.compile(r"\.dist-info/(METADATA|(licenses/)?(LICENSE|NOTICE)[^/]*)$")
UNUSED = re.compile(r"/(3rdparty|src|cython|stub|share)/|\.pyi$")  # of tvm-ffi


class CannotBring(Exception):
    """Raised where the folder cannot be made; the message is one line for stderr."""


def download(name: str, python: str, folder: Path) -> None:
    line = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--implementation=cp"]
    line += [f"--python-version={python}", *PLATFORMS, f"--dest={folder}", name]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        reasons = re.findall(r"ERROR: (.*)", done.stderr) or done.stderr.splitlines() or ["no reason given"]
        raise CannotBring(f"pip download {name}: {reasons[-1]}")


def wheel(folder: Path, pattern: str) -> ZipFile:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise CannotBring(f"{folder} should hold one {pattern}, it holds {len(found)}")
    try:
        return ZipFile(found[0])
    except BadZipFile:
        raise CannotBring(f"{found[0]} is no wheel") from None


def imports(path: str, text: str) -> Iterator[str]:
    """Yields files that a module may import, within its functions too."""
    package = PurePosixPath(path).parent.parts
    for node in ast.walk(ast.parse(text)):
        base = []
        if isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
        for name in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else []:
            parts = [*base, *name.name.split(".")]
            for n in range(1, len(parts) + 1):
                yield "/".join(parts[:n]) + ".py"
                yield "/".join(parts[:n]) + "/__init__.py"


def includes(path: str, text: str) -> Iterator[str]:
    """Yields files that a source may include, under any condition."""
    for name in re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, re.M):
        for root in (PurePosixPath(path).parent, *(f"{DATA}/{x}" for x in HEADERS)):
            yield os.path.normpath(f"{root}/{name}")


def reached(package: ZipFile, todo: list[str], step: Callable[[str, str], Iterator[str]]) -> set[str]:
    names, seen = set(package.namelist()) - set(STUBS), set()
    while todo:
        path = todo.pop()
        if path in names and path not in seen:
            seen.add(path)
            todo.extend(step(path, package.read(path).decode(errors="replace")))
    return seen


def pack(wheels: Path, out: Path) -> None:
    """Replaces the folder by a new one, ready to compile."""
    flashinfer, tvm = wheel(wheels, "flashinfer_python-*.whl"), wheel(wheels, "apache_tvm_ffi-*.whl")
    names, modules = flashinfer.namelist(), reached(flashinfer, [ENTRY], imports)
    wanted = [ENTRY, *(f"flashinfer/jit/{x}.py" for x in COMPILED)]
    generators = "".join(flashinfer.read(x).decode() for x in wanted[1:] if x in modules)
    sources = [f"{DATA}/csrc/{x}" for x in re.findall(r'FLASHINFER_CSRC_DIR / "(.+?)"', generators)]
    lost = [x for x in wanted if x not in modules] + [x for x in sources if x not in names]
    if lost or not sources:
        raise CannotBring(f"{Path(str(flashinfer.filename)).name} has another layout: no {(lost or ['sources'])[0]}")
    if f"flashinfer_python-{VERSION}.dist-info/METADATA" in names:  # another version may call what this one does not
        sources = [x for x in sources if not x.endswith(f"/{LEFT_OUT}")]
    shutil.rmtree(out, ignore_errors=True)
    kept = modules | reached(flashinfer, sources, includes) | {x for x in names if NOTICES.search(x)}
    flashinfer.extractall(out, kept)
    tvm.extractall(out, [x for x in tvm.namelist() if not UNUSED.search(x)])
    for stub in STUBS:
        (out / stub).write_text('"""Nearly nothing: only the sampling functions are here."""\n')


def cuda_home() -> str:
    nvcc = shutil.which("nvcc")
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda", nvcc and Path(nvcc).resolve().parents[1]):
        if home and Path(home, "bin/nvcc").exists():
            return str(home)
    raise CannotBring("no nvcc was found, CUDA_HOME says where it is")


def build(out: Path, scratch: Path, arch: str) -> None:
    """Compiles missing modules with FlashInfer's own flags, puts them where it looks first, and loads them."""
    if not list(out.glob(f"tvm_ffi/core.cpython-{sys.version_info.major}{sys.version_info.minor}-*.so")):
        raise CannotBring(f"tvm-ffi was brought for another Python than {sys.version.split()[0]}")
    curand = [x for site in sys.path for x in Path(site).glob("nvidia/cu*/include") if (x / "curand.h").exists()]
    # An empty libcuda satisfies -lcuda without a driver, and --as-needed leaves it out of the result.
    stub = ["c++", "-shared", "-xc++", "/dev/null", "-Wl,-soname,libcuda.so.1", "-o", f"{scratch}/libcuda.so"]
    subprocess.run(stub, check=True)
    os.environ |= {
        "CUDA_HOME": cuda_home(),
        "CXX": "c++ -Wl,--as-needed",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # this environment's ninja
        "FLASHINFER_WORKSPACE_BASE": str(scratch),
        "FLASHINFER_CUDA_ARCH_LIST": arch,
        "FLASHINFER_EXTRA_CUDAFLAGS": " ".join(f"-isystem {x}" for x in curand),  # pip's, if the toolkit has none
        "FLASHINFER_EXTRA_LDFLAGS": f"-s -L{scratch} -Wl,-z,lazy",  # a call of what was left out fails, not the loading
    }
    sys.path.insert(0, str(out.resolve()))
    core, env = importlib.import_module("flashinfer.jit.core"), importlib.import_module("flashinfer.jit.env")
    specs = [getattr(importlib.import_module(f"flashinfer.jit.{x}"), f"gen_{x}_module")() for x in COMPILED]
    for spec in specs:
        spec.sources = [x for x in spec.sources if x.exists()]
    core.build_jit_specs(specs)  # on $MAX_JOBS cores, or all
    for spec in specs:
        target = env.FLASHINFER_AOT_DIR / spec.name / f"{spec.name}.so"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(spec.jit_library_path, target)
        spec.load(target)


def bring(args: argparse.Namespace, scratch: Path) -> None:
    if not args.build:
        if not args.wheel_dir:
            download(f"flashinfer-python=={args.version}", args.python, scratch)
            package = wheel(scratch, "flashinfer_python-*.whl")
            metadata = [package.read(x).decode() for x in package.namelist() if x.endswith(".dist-info/METADATA")]
            needed = re.search(r"^Requires-Dist: (apache-tvm-ffi[^;\s]*)", "".join(metadata), re.M)
            download(needed[1] if needed else "apache-tvm-ffi", args.python, scratch)
        pack(args.wheel_dir or scratch, args.out)
    elif not (args.out / ENTRY).exists():
        raise CannotBring(f"{args.out} holds no FlashInfer, bring it first")
    start = time.monotonic()
    try:
        build(args.out, scratch, args.arch)
    except Exception as error:  # anything: no torch, no nvcc, a source that it does not compile
        named = str(error) if isinstance(error, CannotBring) else f"{type(error).__name__}: {error}"
        reason = next((x for x in named.splitlines() if " error" in x), named.splitlines()[0])
        if args.build:
            raise CannotBring(f"not compiled: {reason}") from error
        print(f"not compiled, {reason}; --build does it where nvcc is")
    else:
        print(f"compiled for {args.arch} and loaded in {time.monotonic() - start:.0f} s: {', '.join(COMPILED)}")
        for x in HEADERS:
            shutil.rmtree(args.out / DATA / x.split("/")[0], ignore_errors=True)
        shutil.rmtree(args.out / "tvm_ffi/include", ignore_errors=True)
    print(f"{args.out}: {sum(x.stat().st_size for x in args.out.rglob('*') if x.is_file()) / 2**20:.1f} MiB")
    place = args.out if args.out.is_absolute() else f"$PWD/{args.out}"
    print(f"export PYTHONPATH={place} FLASHINFER_WORKSPACE_BASE=/tmp/flashinfer  # any folder it may write to")
    print("export FLASHINFER_DISABLE_JIT=1  # once compiled: an error instead of minutes of nvcc")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel-dir", type=Path, help="has flashinfer_python and apache_tvm_ffi; pip is not asked")
    parser.add_argument("--version", default=VERSION, help="of FlashInfer")
    parser.add_argument("--out", type=Path, default=Path(".peers/flashinfer"))
    parser.add_argument("--python", default="3.12", help="the GPU machine's")
    parser.add_argument("--arch", default="9.0a", help="as FLASHINFER_CUDA_ARCH_LIST takes it")
    parser.add_argument("--build", action="store_true", help="only compile and load what was brought before")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            bring(args, Path(scratch))
    except CannotBring as error:
        print(f"bring_flashinfer: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
