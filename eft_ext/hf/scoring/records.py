"""Scores and a tokenizer make records: ids become text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from eft_ext.analysis.record import Candidate, Change, Record, Token
from eft_ext.hf.scoring.score import IGNORED, SequenceScore

_WINDOW = 8  # tokens before one that its text may depend on (leading spaces, bytes of a character)


def records(
    score: SequenceScore,
    tokenizer: Any,
    prompts: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    speculation: Sequence[Sequence[str | None]] | None = None,
) -> list[Record]:
    """Makes one record for each row of a score; its lists of tokens are as long as the score's.

    Args:
        score: from `EmulatedModel.score`; give it `candidates` and `num_changed`, which a report lists.
        tokenizer: the model's.
        prompts: the text before each row.
        options: weights and sampling, which a report shows.
        speculation: for each row and scored token, `Token.speculation`.
    """
    host = score.tokens._replace(
        **{k: v.float().cpu() for k, v in score.tokens._asdict().items() if v.dtype.is_floating_point}
    )
    special = set(tokenizer.all_special_ids)
    found = []
    for b, row in enumerate(score.ids.tolist()):
        start = next((i for i, token in enumerate(row) if token != IGNORED), len(row))
        ids = row[start:]
        texts = pieces(tokenizer, ids)
        marks = [None] * len(ids) if speculation is None else speculation[b]
        if len(marks) != len(ids):
            raise ValueError(f"speculation[{b}]: expected {len(ids)} marks, one for each token, got {len(marks)}")
        tokens = []
        for t, (token, text, mark) in enumerate(zip(ids, texts, marks, strict=True), start=start):
            tokens.append(
                Token(
                    id=token,
                    text=text,
                    logprobs=host.logprobs[b, t].tolist(),
                    entropy=host.entropy[b, t].tolist(),
                    rank=host.rank[b, t].tolist(),
                    tv=float(host.tv[b, t]),
                    kl=float(host.kl[b, t]),
                    special=token in special,
                    speculation=mark,
                    candidates=_candidates(score, b, t, tokenizer),
                    up=_changes(host.up_ids[b, t], host.up_log_ratios[b, t], tokenizer),
                    down=_changes(host.down_ids[b, t], host.down_log_ratios[b, t], tokenizer),
                )
            )
        prompt = prompts[b] if b < len(prompts) else ""
        found.append(Record(tokens, prompt, list(score.names), dict(options or {}), score.compared))
    return found


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token's part of the decoded text: together they are the text, whatever bytes a token holds."""
    found, before = [], ""
    for end in range(1, len(ids) + 1):
        start = max(0, end - _WINDOW)
        before = _decode(tokenizer, ids[start : end - 1])
        now = _decode(tokenizer, ids[start:end])
        if now.endswith("�"):  # the bytes of a character that is not complete yet
            now = now.rstrip("�")
        found.append(now[len(before.rstrip("�")) :])
    return found


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)) if ids else ""


def _candidates(score: SequenceScore, b: int, t: int, tokenizer: Any) -> list[Candidate]:
    """Most likely under the mixture first."""
    if score.candidates is None:
        return []
    ids, logprobs = score.candidates.ids[b, t].tolist(), score.candidates.logprobs[b, t].tolist()
    listed = [Candidate(i, _decode(tokenizer, [i]), own) for i, own in zip(ids, logprobs, strict=True) if i >= 0]
    return sorted(listed, key=lambda c: -(c.logprobs[-1] or 0.0))


def _changes(ids: Tensor, log_ratios: Tensor, tokenizer: Any) -> list[Change]:
    pairs = zip(ids.tolist(), log_ratios.tolist(), strict=True)
    return [Change(i, _decode(tokenizer, [i]), ratio) for i, ratio in pairs if i >= 0]
