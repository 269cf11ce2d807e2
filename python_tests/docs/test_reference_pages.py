"""The API reference names all that the packages export."""

import ast
import re

import pytest

from python_tests.docs.pages import ROOT

PACKAGES = ["eft_ext", "eft_ext.methods", "eft_ext.analysis", "eft_ext.dynamics", "eft_ext.decoding"]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")}
DIRECTIVES = [name for page in PAGES.values() for name in re.findall(r"^::: (\S+)$", page, re.M)]


def exported(package):
    """Its `__all__`, read without importing it: a package may need an extra that is not installed."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    assigned = (node for node in tree.body if isinstance(node, ast.Assign))
    return next(ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == "__all__")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_has_an_entry(package):
    """By the package's name, or a module's of it: mkdocstrings takes `dynamics.delta` for the module."""
    found = {name.rpartition(".")[2] for name in DIRECTIVES if name.startswith(f"{package}.")}
    pages = {package.rpartition(".")[2] for package in PACKAGES} & PAGES.keys()
    assert set(exported(package)) - found - pages - {"__version__"} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_do_not_hide_functions(package):
    """A directive's name is no module of the package, where the function of that name is meant."""
    folder = ROOT / package.replace(".", "/")
    names = [name.removeprefix(f"{package}.") for name in DIRECTIVES]
    assert [name for name in names if "." not in name and (folder / f"{name}.py").exists()] == []


def test_no_entry_stands_twice():
    assert len(DIRECTIVES) == len(set(DIRECTIVES))
