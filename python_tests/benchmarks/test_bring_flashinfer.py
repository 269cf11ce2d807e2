"""The folder made from FlashInfer's wheel, on a made-up wheel with the same layout: nothing is fetched or compiled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GENERATOR = "from . import env\nsources = [env.FLASHINFER_CSRC_DIR / "
MODULES = {
    "__init__.py": "from . import attention",
    "attention.py": "",
    "sampling.py": "from .jit.sampling import sources\nfrom .trace.templates.x import y\ndef f(): from .topk import g",
    "topk.py": "from .jit.topk import sources",
    "trace/__init__.py": "from . import solution",
    "trace/solution.py": "from ..solver import z",
    "trace/templates/__init__.py": "",
    "trace/templates/x.py": "import flashinfer.version",
    "solver.py": "",
    "version.py": "",
    "jit/__init__.py": "from . import attention",
    "jit/attention.py": "",
    "jit/env.py": "",
    "jit/sampling.py": GENERATOR + '"sampling.cu"]',
    "jit/topk.py": GENERATOR + '"topk.cu", env.FLASHINFER_CSRC_DIR / "cub_topk.cu"]',
}
SOURCES = {
    "csrc/sampling.cu": "#include <flashinfer/sampling.cuh>\n#include <stdio.h>",
    "csrc/topk.cu": '#include "helper.h"\n#ifdef NEVER\n#  include <cub/cub.cuh>\n#endif',
    "csrc/cub_topk.cu": "",
    "csrc/helper.h": "",
    "csrc/attention.cu": "",
    "include/flashinfer/sampling.cuh": '#include "math.cuh"',
    "include/flashinfer/math.cuh": "",
    "include/flashinfer/attention.cuh": "",
    "cccl/cub/cub/cub.cuh": "",
}
TVM = ("tvm_ffi/__init__.py", "tvm_ffi/lib/libtvm_ffi.so", "tvm_ffi/include/c_api.h", "tvm_ffi/src/ffi/a.cc")
NOTICES = ("METADATA", "licenses/LICENSE")


def make_wheels(folder: Path, without: str = "", version: str = "0.0") -> Path:
    files = {**MODULES, **{f"data/{name}": text for name, text in SOURCES.items()}}
    with ZipFile(folder / f"flashinfer_python-{version}-py3-none-any.whl", "w") as package:
        for name, text in files.items():
            if name != without:
                package.writestr(f"flashinfer/{name}", text)
        for name in NOTICES:
            package.writestr(f"flashinfer_python-{version}.dist-info/{name}", "")
    with ZipFile(folder / "apache_tvm_ffi-0.0-cp312-cp312-any.whl", "w") as package:
        for name in TVM:
            package.writestr(name, "")
    return folder


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, BENCHMARKS / "bring_flashinfer.py", *arguments]
    return subprocess.run([str(x) for x in line], capture_output=True, text=True)


@pytest.mark.parametrize(("version", "left_out"), [("0.0", "none"), ("0.7.2.post1", "cub_topk")])
def test_what_sampling_reaches_is_kept_and_nothing_else(tmp_path: Path, version: str, left_out: str) -> None:
    out = tmp_path / "out"
    (out / "flashinfer").mkdir(parents=True)
    (out / "flashinfer/of_an_earlier_version.py").touch()
    done = run("--wheel-dir", make_wheels(tmp_path, version=version), "--out", out)
    assert done.returncode == 0, done.stderr
    assert "not compiled" in done.stdout  # the made-up tvm-ffi has no library
    assert f"export PYTHONPATH={out} " in done.stdout
    kept = {str(x.relative_to(out)) for x in out.rglob("*") if x.is_file()}
    modules = {f"flashinfer/{x}" for x in MODULES if not x.endswith("attention.py")}
    sources = {f"flashinfer/data/{x}" for x in SOURCES if "attention" not in x and left_out not in x}
    assert kept == {*modules, *sources, *TVM[:3], *(f"flashinfer_python-{version}.dist-info/{x}" for x in NOTICES)}
    for stub in ("flashinfer/__init__.py", "flashinfer/jit/__init__.py"):
        assert "import" not in (out / stub).read_text()


@pytest.mark.parametrize("without", ["sampling.py", "jit/topk.py", "data/csrc/topk.cu"])
def test_another_layout_is_refused_and_leaves_the_folder_as_it_was(tmp_path: Path, without: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "kept").touch()
    done = run("--wheel-dir", make_wheels(tmp_path, without), "--out", out)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"has another layout: no flashinfer/{without}" in done.stderr
    assert (out / "kept").exists()


def test_a_folder_without_wheels_and_a_build_of_nothing_are_refused(tmp_path: Path) -> None:
    for arguments in (["--wheel-dir", tmp_path], ["--build"]):
        done = run(*arguments, "--out", tmp_path / "out")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
