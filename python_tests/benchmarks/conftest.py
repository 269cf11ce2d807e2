"""A bare copy of the tree, and a Python in which the package is not installed."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
TREE = ("Makefile", "CMakeLists.txt", "setup.py", "pyproject.toml", "benchmarks", "csrc", "eft_ext", "python_tests")


@pytest.fixture(scope="session")
def uninstalled(tmp_path_factory) -> Path:
    """The folder of a Python that has all packages of ours but eft_ext."""
    made = tmp_path_factory.mktemp("uninstalled")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
    there = next(made.glob("lib/python*/site-packages"))
    # A path in a .pth file is searched, and the .pth files in it are not read: an editable package is not found.
    (there / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made / "bin"


@pytest.fixture
def bare(tmp_path) -> Path:
    """The tree as it is copied to a GPU machine: without .git, with the built libraries."""
    copy = tmp_path / "tree"
    copy.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "results", ".hypothesis", "*.egg-info")
    for name in TREE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
        else:
            shutil.copy2(ROOT / name, copy / name)
    if not list((copy / "eft_ext").glob("libeft.so")):
        pytest.skip("the package is not built in place")
    return copy
