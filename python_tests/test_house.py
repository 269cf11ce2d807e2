"""House rules that no linter knows: references lead somewhere, docstrings begin well, files are short."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("csrc", "eft_ext", "docs", "*.md", "Makefile", "*.cmake", "*CMakeLists.txt")
READ = {".py", ".h", ".cuh", ".cu", ".cpp", ".md", ".cmake", ".txt", ""}
FILE = re.compile(r"(?<![\w./<*{-])([a-z_][\w./-]*\.(?:py|cpp|cuh|cu|h|md|cmake))\b")
SECTION = re.compile(r"\bnumerics\.md §(\d+)")
NOT_OURS = ("llama.cpp",)
MADE = ("step-gpu.md",)  # by a command, on a GPU
NO_BEGINNINGS = {"what", "whether", "how", "of", "as", "where", "which"}
MAX_LINES = 250


def tracked(*patterns):
    listed = subprocess.run(["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_references_lead_somewhere():
    """Every file that a text of ours names is there: the whole path, or the end of one."""
    ends = {"/".join(parts[-n:]) for name in tracked() for parts in [name.split("/")] for n in range(1, len(parts) + 1)}
    dead = {
        f"{name}: {file}"
        for name in tracked(*SOURCES)
        if Path(name).suffix in READ and name != "CHANGELOG.md"
        for file in FILE.findall(text(name))
        if file not in ends and not file.endswith(MADE + NOT_OURS) and "NAME" not in file
    }
    assert sorted(dead) == []


def test_cited_sections_exist():
    """`numerics.md §N` is a heading of that page, and some sections are cited."""
    sections = set(re.findall(r"^## §?(\d+)", text("docs/internals/numerics.md"), re.M))
    cited = {(name, n) for name in tracked("csrc", "eft_ext", "python_tests") for n in _sections(name)}
    assert cited
    assert {pair for pair in cited if pair[1] not in sections} == set()


def _sections(name):
    return SECTION.findall(text(name)) if Path(name).suffix in READ else []


def test_docstrings_say_what_a_thing_is():
    """None begins with a question word; they say what a thing is, or begin with a verb."""
    wrong = []
    for name in tracked("*.py"):
        for node in ast.walk(ast.parse(text(name))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                first = (ast.get_docstring(node) or "-").split()[0].lower().strip(".,:`")
                if first in NO_BEGINNINGS:
                    wrong.append(f"{name}:{getattr(node, 'lineno', 1)}")
    assert wrong == []


def test_files_are_short():
    long = {
        name: n
        for name in tracked("*.py", "*.h", "*.cuh", "*.cu", "*.cpp")
        if (n := text(name).count("\n")) > MAX_LINES
    }
    assert long == {}
