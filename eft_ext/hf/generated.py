"""Records of what the mixture generates: an answer, then each token's probabilities under all models."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from eft_ext.analysis.record import Record
from eft_ext.decoding.requests import TokenSource
from eft_ext.hf.generation.speculation import IF_POSSIBLE
from eft_ext.hf.inputs.arguments import ends_of, given_ends
from eft_ext.hf.inputs.chats import SystemMessageWarning
from eft_ext.hf.inputs.context import ContextWarning
from eft_ext.hf.model import EmulatedModel
from eft_ext.hf.scoring.records import records

_SPECULATION = {
    TokenSource.step: None,
    TokenSource.accepted: "accepted",
    TokenSource.resampled: "rejected",
    TokenSource.bonus: "bonus",
}


def generated_records(
    model: EmulatedModel,
    read: Mapping[str, Any],
    texts: Sequence[str],
    *,
    candidates: int = 5,
    num_changed: int = 5,
    chat: str = "template",
    **sampling: Any,
) -> list[Record]:
    """Answers each prompt and scores the answers, their end-of-text tokens with them.

    Args:
        model: with a tokenizer.
        read: what each model reads, as `generate(prompts=)` takes it.
        texts: the prompts as they are shown.
        candidates, num_changed: lengths of the lists at each token.
        chat: as for `generate`.
        sampling: for `generate`; with `speculate` the records say what became of the drafts, but not where it is
            `IF_POSSIBLE`: then nobody has asked.
    """
    encoded = model.encode(None, read, {**sampling, "chat": chat}, model.method)
    length, ids_read = encoded[model.members[0].name].ids.shape[1], {name: p.inputs for name, p in encoded.items()}
    out = model.generate(prompts=ids_read, return_dict_in_generate=True, **sampling)
    assert not isinstance(out, torch.Tensor)
    ids = out.sequences
    given = given_ends(sampling.get("generation_config"), sampling)
    ends = given or ends_of(model.members, model.method.ending, model.means(model.method))
    answers = [_until_end(row, ends) for row in ids[:, length:].tolist()]
    with warnings.catch_warnings():
        for said in (ContextWarning, SystemMessageWarning):  # while generating, which reads the same
            warnings.simplefilter("ignore", said)
        listing: dict[str, Any] = {"candidates": candidates, "num_changed": num_changed, "chat": chat}
        score = model.score(responses=answers, prompts=dict(read), **listing)
    asked = sampling.get("speculate") != IF_POSSIBLE
    sources = getattr(out, "token_sources", None) if asked else None
    drafted = None
    if not asked:
        del sampling["speculate"]
    if sources is not None:
        rows = zip(sources.tolist(), answers, strict=True)
        drafted = [[_SPECULATION[TokenSource(source)] for source in row[: len(answer)]] for row, answer in rows]
    return records(score, model.tokenizer, texts, {"method": repr(model.method), **sampling}, drafted)


def _until_end(row: list[int], ends: Sequence[int]) -> list[int]:
    """Up to and with the first end-of-text token: what follows is padding."""
    return next((row[: i + 1] for i, token in enumerate(row) if token in ends), row)
