"""Answers side by side, each column filling as its model generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from eft_ext.demo.trio import EFT, LARGE, ORACLE, TUNED, Mode, Trio
from eft_ext.demo.world import Question

COLUMNS = (LARGE, TUNED, EFT, ORACLE)


class _Cell(BaseStreamer):
    """Receives one model's tokens, the prompt first, and reports the text so far."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, report: Callable[[str], None]) -> None:
        self._tokenizer, self._report = tokenizer, report
        self._ids: list[int] = []
        self._prompt = True

    def put(self, value: Tensor) -> None:
        if not self._prompt:
            self._ids += value.flatten().tolist()
            self._report(self._tokenizer.decode(self._ids, skip_special_tokens=True).strip())
        self._prompt = False

    def end(self) -> None: ...


def _table(questions: Sequence[Question], cells: dict[tuple[int, str], str]) -> Table:
    table = Table("held-out question", *COLUMNS, show_lines=True)
    for i, question in enumerate(questions):
        asked = f"{question.text}\n[dim]{question.answer}[/dim]"
        table.add_row(asked, *(cells.get((i, name), "") for name in COLUMNS))
    return table


def stream(
    trio: Trio, questions: Sequence[Question], mode: Mode, beta: float, console: Console
) -> list[dict[str, str]]:
    """Shows the four models' answers as they come; without a terminal, prints each when it is whole.

    Returns:
        For each question the answers by model.
    """
    cells: dict[tuple[int, str], str] = {}
    if not console.is_terminal:
        for i, question in enumerate(questions):
            console.print(f"{question.text}  ({question.answer})", highlight=False)
            for name in COLUMNS:
                cells[i, name] = trio.generate(name, [question.prompt], mode, beta)[0].strip()
                console.print(f"  {name:<12} {cells[i, name]}", highlight=False)
        return _by_question(questions, cells)
    with Live(_table(questions, cells), console=console, refresh_per_second=20) as live:
        for i, question in enumerate(questions):
            for name in COLUMNS:

                def report(text: str, cell: Any = (i, name)) -> None:
                    cells[cell] = text
                    live.update(_table(questions, cells))

                trio.generate(name, [question.prompt], mode, beta, _Cell(trio.tokenizer, report))
    return _by_question(questions, cells)


def _by_question(questions: Sequence[Question], cells: dict[tuple[int, str], str]) -> list[dict[str, str]]:
    return [
        {"question": q.text, "answer": q.answer} | {name: cells[i, name] for name in COLUMNS}
        for i, q in enumerate(questions)
    ]
