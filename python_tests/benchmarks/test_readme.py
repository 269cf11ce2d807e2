"""The list of benchmarks, and the folders that they share."""

import ast
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMMANDS = sorted(path.name for path in BENCHMARKS.glob("*.py"))
SHARED = sorted(BENCHMARKS.glob("*/*.py"))


def test_every_command_and_every_shared_module_is_listed():
    page = (BENCHMARKS / "README.md").read_text()
    assert set(re.findall(r"\w+\.py", page)) == set(COMMANDS)
    modules = {path.stem for path in SHARED if path.stem != "__init__"}
    assert modules <= set(re.findall(r"`(\w+)`", page.partition("## Shared modules")[2]))


@pytest.mark.parametrize("module", SHARED, ids=[str(path.relative_to(BENCHMARKS)) for path in SHARED])
def test_a_shared_module_imports_no_command_and_no_folder_but_common(module):
    imported = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    ours = {name.removesuffix(".py") for name in COMMANDS} | {path.parent.name for path in SHARED}
    assert imported & ours <= {"common", module.parent.name}
