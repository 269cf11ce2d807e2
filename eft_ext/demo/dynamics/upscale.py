"""Grades a small tuned model whose delta is carried over to the large one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from eft_ext.demo.evaluate import ask_all
from eft_ext.demo.grade import Grader
from eft_ext.demo.text import polite
from eft_ext.demo.trio import EFT, GREEDY, TUNED, Trio
from eft_ext.demo.world import Question
from eft_ext.dynamics import Responses
from eft_ext.dynamics.forward import response_logits
from eft_ext.dynamics.statistics import token_statistics


@torch.no_grad()
def upscaled(trio: Trio, tuned: Any, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """One row for each question, for the small tuned model alone and for EFT.

    `fact`, `format`: of the greedy answer. `confidence`: mean log p_max per token along that answer. `log_prob`: of the
    right answer in the fixed format, its end token included. `length` of the answer in tokens.
    """
    trio = replace(trio, tuned=tuned)
    grader = Grader(trio.world)
    rows = []
    for who, mixed in ((TUNED, (trio.tuned,)), (EFT, (trio.large, trio.tuned, trio.base))):
        answers, _ = ask_all(trio.answerers(GREEDY)[who], questions)
        own = [(q.prompt, answer) for q, answer in zip(questions, answers, strict=True)]
        right = [(q.prompt, f" {polite(q.fact)}") for q in questions]
        confidence, lengths = _along(mixed, trio, own)["argmax"]
        log_prob, _ = _along(mixed, trio, right)["own"]
        for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            grade = grader(question, answer)
            figures = {"confidence": float(confidence[i] / lengths[i]), "log_prob": float(log_prob[i])}
            row = {"who": who, "question": i, "fact": grade.fact, "format": grade.format, "length": int(lengths[i])}
            rows.append(row | figures)
    return rows


def _along(models: Sequence[Any], trio: Trio, pairs: list[tuple[str, str]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums over each response of log p_max and of the response's own log-prob, [rows], and the lengths."""
    found: dict[str, list[Tensor]] = {"argmax": [], "own": [], "lengths": []}
    for batch in Responses.from_text(trio.tokenizer, pairs).batches(64):
        logits = [response_logits(model, batch) for model in models]
        z = logits[0] if len(logits) == 1 else logits[0] + logits[1] - logits[2]
        statistics = token_statistics(z, batch.targets)
        found["argmax"].append(batch.sums(statistics.argmax_log_prob))
        found["own"].append(batch.sums(statistics.log_prob))
        found["lengths"].append(batch.lengths)
    whole = {name: torch.cat(parts) for name, parts in found.items()}
    return {name: (whole[name], whole["lengths"]) for name in ("argmax", "own")}
