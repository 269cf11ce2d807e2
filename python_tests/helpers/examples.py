"""The scripts of examples/, run in this process."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def imported(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def printed(capsys):
    """printed(name, *arguments) -> the lines that an example prints."""

    def lines(name, *arguments):
        imported(name).main(*map(str, arguments))
        return capsys.readouterr().out.splitlines()

    return lines
