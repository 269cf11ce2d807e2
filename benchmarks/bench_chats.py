"""Should a model without a chat template read the tuned model's, or a transcript?

    python benchmarks/bench_chats.py --json benchmarks/results/chats-cpu.json

Baseline is the embedded trio under the tuned model's template, which all models read. The others are transcripts that
the large and the base model read beside it; the floor is the tuned model alone. Answers are greedy, to questions that
no model was trained on, and graded as those of `eft demo`. docs/notes/chat-forms.md has the figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from common.machine import describe
from rich.console import Console
from rich.table import Table

from eft_ext import _json
from eft_ext._chat import transcript
from eft_ext.demo import model_path
from eft_ext.demo.grade import Grader, Proportion
from eft_ext.demo.trio import LONGEST, load_trio
from eft_ext.demo.world import Question
from eft_ext.hf import EmulatedModel
from eft_ext.methods import Plain

BATCH = 100


def forms(chats: list[Any]) -> dict[str, dict[str, Any]]:
    """Arguments of `generate_text` in each form."""
    lines = [transcript(chat, "\n") for chat in chats]
    return {
        "template": {"inputs": chats},
        "transcript": {"inputs": chats, "chat": "transcript"},
        "transcript, answers on a line of their own": {"inputs": lines, "prompts": {"tuned": chats}},
        "the question alone": {"inputs": [chat[0]["content"] for chat in chats], "prompts": {"tuned": chats}},
    }


def graded(model: EmulatedModel, questions: list[Question], form: str, grader: Grader) -> dict[str, float]:
    """Shares of right facts and of kept format, with the bounds of their 95 % intervals."""
    answers: list[str] = []
    for start in range(0, len(questions), BATCH):
        chats = [[{"role": "user", "content": q.text}] for q in questions[start : start + BATCH]]
        answers += model.generate_text(**forms(chats)[form], max_new_tokens=LONGEST, do_sample=False)
    grades = [grader(question, answer) for question, answer in zip(questions, answers, strict=True)]
    found = {}
    for part in ("fact", "format"):
        share = Proportion(sum(getattr(grade, part) for grade in grades), len(grades))
        found |= {part: share.value, f"{part}_low": share.interval[0], f"{part}_high": share.interval[1]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    torch.set_num_threads(1)  # layers this small take longer to share than to compute
    world = load_trio().world
    questions = world.questions("heldout", 0)[: args.questions]
    folders = {"large": "large-base", "tuned": "small-tuned", "base": "small-base"}
    paths = {name: str(model_path(folder)) for name, folder in folders.items()}
    trio = EmulatedModel.from_pretrained(**paths, quiet=True)
    alone = EmulatedModel.from_pretrained(model=paths["tuned"], method=Plain(), quiet=True)
    grader = Grader(world)
    results = {form: graded(trio, questions, form, grader) for form in forms([[{"content": "", "role": "user"}]])}
    results["tuned alone"] = graded(alone, questions, "template", grader)
    table = Table("large and base read", "facts right", "format kept", title=f"{len(questions)} held-out questions")
    for form, row in results.items():
        table.add_row(form, *(f"{100 * row[part]:.1f} %" for part in ("fact", "format")))
    Console().print(table)
    if args.json:
        _json.write(args.json, {"machine": describe(), "questions": len(questions), "results": results}, indent=1)


if __name__ == "__main__":
    main()
