"""Checks what `make wheel` has built, and prints sizes and tags: `python release/check.py dist/*`."""

from __future__ import annotations

import ctypes
import email
import io
import re
import sys
import tarfile
import tempfile
import zipfile
from email.message import Message
from pathlib import Path

MIB = 2**20
# Of every Linux: nothing of CUDA, no libstdc++.
SYSTEM = {
    *("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0"),
    *("libgcc_s.so.1", "ld-linux-x86-64.so.2"),
}
EXTRAS = {"hf", "cli", "plots", "peft", "dynamics", "triton", "all", "lm-eval", "serve"}
TORCH_GLIBC = 28  # 2.28, in the tags of torch's wheels
BUILT_IN = re.compile(rb"/(?:home|root|tmp|work|build|usr/local)/[\w./+-]+")


def expect(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise SystemExit(f"{what}: expected {expected}, got {found}")


def check_metadata(text: str) -> Message:
    """Fields that pip and a package index read."""
    about = email.message_from_string(text)
    expect(about["Name"], "eft_ext", "Name")
    expect(about["License-Expression"], "Apache-2.0", "License-Expression")
    expect(about.get_all("License-File"), ["LICENSE"], "License-File")
    expect(about["Requires-Python"], ">=3.10", "Requires-Python")
    always = [line for line in about.get_all("Requires-Dist", []) if "extra ==" not in line]
    expect([re.split(r"\W", line)[0] for line in always], ["torch"], "packages that are always installed")
    extras = set(about.get_all("Provides-Extra", []))
    expect(EXTRAS - extras, set(), "missing extras")
    return about


def check_library(name: str, data: bytes) -> str:
    """A shared library: stripped, without a path of the machine that built it. Returns its size."""
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(io.BytesIO(data))
    expect([s.name for s in elf.iter_sections() if s.name.startswith((".symtab", ".debug"))], [], f"{name}, symbols")
    (dynamic,) = (s for s in elf.iter_sections() if isinstance(s, DynamicSection))
    tags = list(dynamic.iter_tags())
    needed = {tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"}
    expect(needed - SYSTEM - {"libeft.so"}, set(), f"{name}, libraries that a system may lack")
    paths = [tag.runpath for tag in tags if tag.entry.d_tag == "DT_RUNPATH"]
    paths += [tag.rpath for tag in tags if tag.entry.d_tag == "DT_RPATH"]
    expect(paths, ["$ORIGIN"] if "libeft.so" in needed else [], f"{name}, RPATH")
    expect(BUILT_IN.findall(data), [], f"{name}, paths of the machine that built it")
    if name.endswith("libeft.so"):
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(data)
            ctypes.CDLL(file.name)  # every symbol is found, in the version that is asked for
    return f"{name.rpartition('/')[2]} {len(data) / MIB:.1f} MiB"


def check_wheel(path: Path) -> str:
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        tops = {name.partition("/")[0] for name in names}
        info = "-".join(path.name.split("-")[:2]) + ".dist-info"
        expect(tops, {"eft_ext", info}, f"{path.name}, folders")  # auditwheel would put what it adds into another
        expect(f"{info}/licenses/LICENSE" in names, True, f"{path.name}, LICENSE")
        check_metadata(wheel.read(f"{info}/METADATA").decode())
        libraries = sorted(name for name in names if ".so" in name)
        expect(len(libraries), 2, f"{path.name}, libraries")
        sizes = [check_library(name, wheel.read(name)) for name in libraries]
    python, _, platform = path.stem.split("-")[2:]
    glibc = re.fullmatch(r"manylinux_2_(\d+)_\w+", platform)
    if not glibc or int(glibc[1]) > TORCH_GLIBC:
        raise SystemExit(
            f"{path.name}: expected at most manylinux_2_{TORCH_GLIBC}, as torch has; build on an older Linux"
        )
    return f"{python}, {platform}; {', '.join(sizes)}; {len(names)} files"


def check_sdist(path: Path) -> str:
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
        about = sdist.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO")
        check_metadata(about.read().decode() if about else "")
    return f"{len(names)} files"


def main(paths: list[Path]) -> None:
    for path in paths:
        found = check_wheel(path) if path.suffix == ".whl" else check_sdist(path)
        print(f"{path}: {path.stat().st_size / MIB:.1f} MiB ({found})")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
