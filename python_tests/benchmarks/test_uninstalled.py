"""Benchmarks where the package is built in place and not installed, and Make with a Python that is there already."""

import ast
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.rglob("*.py"))


def imported(tree):
    """Top-level names and lines of all imports, also those inside of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name.partition(".")[0], node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0], node.lineno


@pytest.mark.parametrize("script", SCRIPTS, ids=[str(path.relative_to(BENCHMARKS)) for path in SCRIPTS])
def test_the_checkout_comes_before_the_package(script):
    """Importing `common` makes its package known, so its own modules need not."""
    lines = {}
    for name, line in imported(ast.parse(script.read_text())):
        lines.setdefault(name, line)
    if "eft_ext" in lines and script.parent.name != "common":
        assert lines.get("common", 10**9) < lines["eft_ext"]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["bench_step.py", "bench_call.py"])
def test_a_benchmark_finds_the_package_of_its_checkout(bare, uninstalled, script):
    """The folder does not matter; without the checkout's path there is no package."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*words):
        command = [uninstalled / "python", *words]
        return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)

    missing = run("-c", "import eft_ext")
    assert "No module named 'eft_ext'" in missing.stderr, "it is installed here: this test can say nothing"
    done = run(bare / "benchmarks" / script, "--help")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("given", ["exported", "on the command line"])
@pytest.mark.parametrize(
    "target", ["demo", "test", "bench", "gpu-all", "gpu-test", "gpu-bench-step", "gpu-bench-decode"]
)
def test_make_uses_the_python_that_is_given(target, given):
    """Nothing is installed, which would want a network."""
    clean = {k: v for k, v in os.environ.items() if k not in ("BIN", "MAKEFLAGS")}
    words, environment = (["BIN=/a/b"], clean) if given != "exported" else ([], clean | {"BIN": "/a/b"})
    made = subprocess.run(
        ["make", "-n", target, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "/a/b/python" in made.stdout
    assert "pip " not in made.stdout
    assert "venv" not in made.stdout
    made = subprocess.run(["make", "-n", target], cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert ".venv/bin/python" in made.stdout
