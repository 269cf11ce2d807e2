"""The demonstration as a person sees it, and as a machine reads it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from eft_ext.demo.run import run_demo


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [False, True])
def test_prints_answers_table_and_verdict(terminal: bool) -> None:
    out = io.StringIO()
    run_demo(questions=8, shown=1, console=Console(file=out, width=400, force_terminal=terminal))
    text = out.getvalue()
    for words in (
        "large",
        "small tuned",
        "EFT",
        "oracle",
        "facts right",
        "greedy",
        "sampled",
        "I am glad to help.",
    ):
        assert words in text
    assert text.rstrip().endswith(".")


@pytest.mark.slow
def test_json_and_plot(tmp_path: Path) -> None:
    out = io.StringIO()
    report, picture = tmp_path / "demo.json", tmp_path / "demo.png"
    run_demo(
        questions=8,
        shown=1,
        sampled=False,
        as_json=True,
        json_path=report,
        plot_path=picture,
        console=Console(file=out),
    )
    data = json.loads(out.getvalue())
    assert data == json.loads(report.read_text())
    assert set(data["modes"][0]["models"]) == {"large", "small tuned", "EFT", "oracle"}
    assert data["modes"][0]["models"]["EFT"]["facts"]["n"] == 8
    assert picture.read_bytes().startswith(b"\x89PNG")
