"""The package itself as a user sees it: versions, backends, what is imported when."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import eft_ext
from eft_ext.ops.backends import native
from python_tests.test_house import tracked
from release import check

ROOT = Path(__file__).parent.parent
TOP = ("CHANGELOG.md", "CMakeLists.txt", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")


def test_one_version_everywhere():
    assert native._native.version() == eft_ext.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^version: {re.escape(eft_ext.__version__)}$", citation, re.M)


def test_backends_say_what_is_here_and_why_not():
    found = eft_ext.backends()
    assert list(found) == ["cuda", "triton", "cpu", "reference"]
    assert found["cpu"].available
    assert found["reference"].available
    for backend in found.values():
        assert backend.available or (backend.reason and backend.remedy), backend


@pytest.mark.slow
def test_the_operations_do_not_load_transformers():
    code = "import sys, eft_ext; eft_ext.fused_step; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_setup_never_imports_torch():
    setup = (ROOT / "setup.py").read_text()
    assert "import torch" not in setup
    assert len(setup.splitlines()) < 60


@pytest.fixture
def tree(tmp_path):
    """A tree in which setup.py can be run, without csrc."""
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("needs the setuptools that pyproject.toml asks for")
    copy = tmp_path / "tree"
    (copy / "eft_ext").mkdir(parents=True)
    for name in TOP:
        shutil.copy(ROOT / name, copy)
    for name in ("__init__.py", "_version.py"):
        shutil.copy(ROOT / "eft_ext" / name, copy / "eft_ext")
    return copy


FAKE_CMAKE = """#!{python}
import sys, sysconfig
from pathlib import Path

if "--build" not in sys.argv:
    (where,) = (a.partition("=")[2] for a in sys.argv if a.startswith("-DCMAKE_LIBRARY_OUTPUT_DIRECTORY="))
    Path(where).mkdir(parents=True, exist_ok=True)
    for name in ("libeft.so", "_native" + sysconfig.get_config_var("EXT_SUFFIX")):
        Path(where, name).write_text("new")
"""


@pytest.fixture
def cmake(tree):
    """A cmake that writes files instead of libraries, as the only program on PATH."""
    pytest.importorskip("pybind11")
    program = tree / "bin" / "cmake"
    program.parent.mkdir()
    program.write_text(FAKE_CMAKE.format(python=sys.executable))
    program.chmod(0o755)
    return {k: v for k, v in os.environ.items() if k != "CMAKE_ARGS"} | {"PATH": str(program.parent)}


BUILT = {"eft_ext/libeft.so", "eft_ext/_native" + str(sysconfig.get_config_var("EXT_SUFFIX"))}


@pytest.mark.slow
def test_distributions_hold_the_package_and_nothing_else(tree, cmake, tmp_path):
    """A source distribution what a build reads; a wheel of it the package and its two libraries. Both are licensed, and
    name each extra."""
    package = set(tracked("eft_ext"))
    sources = {name for name in tracked("csrc") if not name.startswith(("csrc/tests/", "csrc/emulator/"))}
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    shutil.copytree(ROOT / "eft_ext", tree / "eft_ext", dirs_exist_ok=True)
    for name in ("python_tests", "benchmarks"):
        (tree / name).mkdir()
        (tree / name / "__init__.py").touch()
    build = [sys.executable, "setup.py", "-q"]
    subprocess.run([*build, "sdist", "--dist-dir", str(tmp_path)], cwd=tree, env=cmake, check=True, capture_output=True)
    (made,) = tmp_path.glob("*.tar.gz")
    check.check_sdist(made)
    with tarfile.open(made) as archive:
        held = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
        archive.extractall(tmp_path / "unpacked", filter="data")
    written = {name for name in held if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert held - written == package | sources | {*TOP}
    assert made.stat().st_size < 10e6

    (unpacked,) = (tmp_path / "unpacked").iterdir()
    command = [*build, "bdist_wheel", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=unpacked, env=cmake, check=True, capture_output=True)
    (made,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(made) as wheel:
        held = set(wheel.namelist())
        (metadata,) = (name for name in held if name.endswith(".dist-info/METADATA"))
        check.check_metadata(wheel.read(metadata).decode())
    info = metadata.removesuffix("METADATA")
    assert {name for name in held if not name.startswith(info)} == package | BUILT
    assert {f"{info}entry_points.txt", f"{info}licenses/LICENSE"} <= held


def test_a_build_in_place_brings_the_library_beside_the_module(tree, cmake):
    """And what was there makes way for it: a process that runs keeps the file that it has mapped."""
    old = tree / "eft_ext" / "libeft.so"
    old.write_text("old")
    mapped = old.open()
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=tree, env=cmake, check=True, capture_output=True)
    found = {path.name.partition(".")[0]: path.read_text() for path in (tree / "eft_ext").glob("*.so")}
    assert found == {"libeft": "new", "_native": "new"}
    assert mapped.read() == "old"


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False])
def test_the_module_alone_may_be_built_beside_a_library(tmp_path, there):
    """For a machine whose Python is another one than where libeft was built (make gpu-test EFT_PREBUILT=1)."""
    pybind11 = pytest.importorskip("pybind11")
    cmake = shutil.which("cmake", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if cmake is None:
        pytest.skip("needs cmake")
    library = ROOT / "eft_ext" / "libeft.so" if there else tmp_path / "libeft.so"
    options = {"EFT_LIBRARY": library, "pybind11_DIR": pybind11.get_cmake_dir(), "Python_EXECUTABLE": sys.executable}
    command = [cmake, "-S", ROOT, "-B", tmp_path / "build", *(f"-D{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not there:
        assert "EFT_LIBRARY: expected a libeft.so that was built before" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    compiled = [entry["output"] for entry in json.loads((tmp_path / "build" / "compile_commands.json").read_text())]
    assert compiled
    assert all("_native.dir" in output for output in compiled), "more than the module"


def test_everything_public_is_there():
    for name in eft_ext.__all__:
        assert getattr(eft_ext, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = eft_ext.nothing
