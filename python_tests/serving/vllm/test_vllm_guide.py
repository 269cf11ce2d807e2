"""The guide's Python, as it stands, on the shipped models."""

from pathlib import Path
from typing import Any

import pytest

from eft_ext.demo import model_path
from eft_ext.hf.checkpoint.pack import pack
from eft_ext.methods import UpScale
from python_tests.docs.pages import BLOCKS

PAGE = "docs/guides/vllm.md"
WHERE = {"large": "large-base", "tuned": "small-tuned", "base": "small-base"}


def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pack(tmp_path / "trio", {name: str(model_path(folder)) for name, folder in WHERE.items()}, UpScale())
    monkeypatch.chdir(tmp_path)
    there: dict[str, Any] = {"TALKATIVE": str(model_path("small-talkative"))}
    for kind, block in BLOCKS[PAGE]:
        if kind == "python":
            exec(compile(block, PAGE, "exec"), there)
    before, after = (line for line in capsys.readouterr().out.splitlines() if line.startswith(" "))
    assert before.startswith(" Thank you for asking!")
    assert before != after  # talkative says it in another way
    weak, strong = (each.outputs[0].text for each in there["answers"])
    assert weak != strong
    there["llm"].llm_engine.engine_core.shutdown()
