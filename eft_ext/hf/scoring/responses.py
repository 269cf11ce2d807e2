"""The part of a caller's texts that is scored: all of them, or responses after prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from eft_ext._seam import appended, continuation, encode_pairs
from eft_ext._text import checked
from eft_ext.hf.inputs.prompts import Prompt, encode
from eft_ext.hf.inputs.words import Words
from eft_ext.hf.scoring.score import IGNORED
from eft_ext.methods import MixingMethod


def scored_texts(
    texts: Mapping[str, Prompt], responses: Any, words: Words, method: MixingMethod
) -> tuple[dict[str, Prompt], Tensor]:
    """The text of each model, and the targets at its end: the responses, or without any all of the first model's text.

    Args:
        texts: of the first model, and of models that read something else, with masks where they hold padding.
        responses: as for `with_responses`, or None.
        words: the models' tokenizers; responses are cut by the one that decodes.

    Raises:
        ValueError: nothing to score, or models that read different texts without responses behind them, but for the
            BOS with which a model's tokenizer begins a text.
    """
    lead = method.models[0]
    texts = {name: text.packed(name) for name, text in texts.items()}
    for name in method.last_token_only:
        if name not in texts and responses is None:
            raise ValueError(f"responses: expected some, since {name} does not read what the others do, got None")
        texts.setdefault(name, texts[lead].last)  # as in generate
    if responses is not None:
        return with_responses(texts, responses, words, lead)
    if len(texts) == 1:
        return texts, whole_targets(texts[lead])
    each = zip_longest(*(prompt.rows for prompt in texts.values()), fillvalue=[])
    starts = [getattr(words.each.get(name), "bos_token_id", None) for name in texts]
    return texts, _aligned([_shared(rows, starts, number) for number, rows in enumerate(each)])


def _shared(rows: Sequence[list[int]], starts: Sequence[int | None], number: int) -> list[int]:
    """The tokens of one text that all models read behind others.

    Args:
        rows: what each model reads of it.
        starts: each model's BOS, in which alone they may differ.
        number: of the text, for messages.
    """
    bare = [row[row[:1] == [start] :] for row, start in zip(rows, starts, strict=True)]
    if any(row != bare[0] for row in bare):
        raise ValueError("responses: expected some, since the models read different tokens before them, got None")
    if not (found := bare[0][len(bare[0]) + 1 - min(map(len, rows)) :]):
        raise _too_short(number)
    return found


def _too_short(row: int) -> ValueError:
    return ValueError(f"inputs: expected at least two tokens in row {row} (the first is predicted by nothing)")


def _aligned(rows: Sequence[list[int]]) -> Tensor:
    """Targets of rows of tokens, aligned at their ends."""
    length = max(map(len, rows))
    return torch.tensor([[IGNORED] * (length - len(row)) + row for row in rows], device="cpu")


def whole_targets(text: Prompt) -> Tensor:
    """Targets [rows, length - 1] of whole texts: every token but the first, which nothing predicts.

    Raises ValueError where there is nothing to score.
    """
    mask = torch.ones_like(text.ids) if text.mask is None else text.mask
    targets = torch.where((mask[:, 1:] != 0) & (mask[:, :-1] != 0), text.ids[:, 1:], IGNORED)
    for row, scored in enumerate((targets != IGNORED).sum(dim=1).tolist()):
        if not scored:
            raise _too_short(row)
    return targets


def with_responses(
    prompts: Mapping[str, Prompt], responses: Any, words: Words, lead: str
) -> tuple[dict[str, Prompt], Tensor]:
    """Each model's prompts with the responses behind them, and the targets: the responses, aligned at their ends.

    Args:
        prompts: of large, and of models that read something else.
        responses: one for each prompt: text or a list of texts, or (lists of) token ids; a tensor may hold -100 where
            it pads.
        lead: the first model, behind whose prompts texts are tokenized (`eft_ext._seam`).

    Raises:
        ValueError: a number of responses that differs from the prompts', or an empty one.
    """
    endings = _token_lists(responses, words.tokenizer, prompts[lead])
    for row, ending in enumerate(endings):
        if not ending:
            raise ValueError(f"responses: expected at least one token in every row, got an empty row {row}")
    for name, prompt in prompts.items():
        if prompt.ids.shape[0] != len(endings):
            raise ValueError(
                f"responses: expected {prompt.ids.shape[0]}, one for each prompt of {name}, got {len(endings)}"
            )
    joined = {}
    for name, prompt in prompts.items():
        heads = prompt.rows
        if prompt.texts and not prompt.chat and (more := appended(words.each[name], prompt.texts[0])):
            heads = [head[:-more] for head in heads]
        joined[name] = encode(name, [head + ending for head, ending in zip(heads, endings, strict=True)], None)
    return joined, _aligned(endings)


def _token_lists(responses: Any, tokenizer: Any, lead: Prompt) -> list[list[int]]:
    if isinstance(responses, Tensor):
        rows = responses.reshape(-1, responses.shape[-1]).tolist()
        return [[token for token in row if token != IGNORED] for row in rows]
    if isinstance(responses, str):
        responses = [responses]
    if not isinstance(responses, Sequence) or not responses:
        raise ValueError(f"responses: expected text or token ids, one for each prompt, got {type(responses).__name__}")
    if all(isinstance(response, str) for response in responses):
        if tokenizer is None:
            raise ValueError("responses: text needs a tokenizer; give one to EmulatedModel, or pass token ids")
        checked("responses", responses)
        if lead.texts is None or len(lead.texts) != len(responses):
            return [continuation(tokenizer, response) for response in responses]
        pairs = zip(lead.texts, responses, strict=True)
        return [ids for _, ids in encode_pairs(tokenizer, pairs, add_special_tokens=not lead.chat)]
    if all(isinstance(token, int) for token in responses):
        return [list(responses)]
    if all(isinstance(response, Sequence) and not isinstance(response, str) for response in responses):
        return [[int(token) for token in response] for response in responses]
    raise ValueError("responses: expected texts or lists of token ids, got a mixture")
