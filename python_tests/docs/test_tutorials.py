"""The tutorials run from top to bottom, and print what they show."""

import re
import shlex
from typing import Any

import pytest

from eft_ext.cli import main
from eft_ext.demo import model_path
from python_tests.docs.pages import COMMAND, HUB, PAGES, TUTORIALS, with_local_models
from python_tests.helpers.one_thread import one_thread as one_thread

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models are missing"),
]


@pytest.mark.parametrize("page", TUTORIALS)
def test_tutorials(page, tmp_path, monkeypatch, capsys):
    """A page's Python and commands in order, in one folder, with no names given but what the page defines.

    A plain fence with nothing but a blank line between it and the block before is all that the block prints.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    there: dict[str, Any] = {"__name__": "__main__"}
    printed, outputs = None, 0
    for between, kind, block in re.findall(r"(.*?)^```(\w*)\n(.*?)^```", PAGES[page], re.S | re.M):
        if kind == "python":
            exec(compile(with_local_models(block), page, "exec"), there)
            printed = capsys.readouterr().out
        elif COMMAND.search(block):
            for line in block.splitlines():
                command = shlex.split(line, comments=True)
                assert main([str(HUB.get(word, word)) for word in command[1:]]) == 0, line
            printed = capsys.readouterr().out
        elif printed is not None and not between.strip():
            assert stripped(block) == stripped(printed)
            outputs += 1
        else:
            printed = None
    assert outputs


def stripped(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def test_tutorials_are_found():
    names = ("first-mixture", "drop-in", "two-behaviours", "score-and-report", "dynamics")
    assert {f"docs/tutorials/{name}.md" for name in names} <= set(TUTORIALS)
