"""Tokenizers of published models, made of the vocabularies that two packages of PyPI bring.

`dashscope` has Qwen's, `mistral-common` that of Mistral's newer models ("tekken"). Both are ranks of byte sequences as
tiktoken has them; here they become what transformers loads of these models.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_FIRST = 151643  # the first id behind the ordinary tokens
_SHARED = (
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>"),
    *("<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
QWEN_ADDED = (  # Qwen2.5, Qwen2.5-Math
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>"),
    *_SHARED,
)
R1_ADDED = (  # DeepSeek-R1-Distill-Qwen
    *(
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<｜begin▁of▁sentence｜>",
        "<|EOT|>",
        "<think>",
        "</think>",
    ),
    *_SHARED,
)
TEKKEN_ADDED = 1000  # ids before the ordinary tokens
_TEKKEN_NAMED = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
)


def qwen(added: Sequence[str] = QWEN_ADDED, ranks: Mapping[bytes, int] | None = None) -> Any:
    """Qwen's tokenizer with these tokens behind the ordinary ones; the first ends a text."""
    ranks = qwen_ranks() if ranks is None else ranks
    vocab, merges = {_text(token): rank for token, rank in ranks.items()}, _qwen_merges()
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[pair for pair in merges if pair[0] + pair[1] in vocab]))
    inner.normalizer = normalizers.NFC()
    return _fast(inner, QWEN_PATTERN, added, eos_token=added[0])


def tekken(named: Mapping[int, str]) -> Any:
    """Mistral's tokenizer: a thousand control tokens, some `named`, before the ordinary ones."""
    found, control = _tekken(), [f"<SPECIAL_{i}>" for i in range(TEKKEN_ADDED)]
    for i, token in {**dict(enumerate(_TEKKEN_NAMED)), **named}.items():
        control[i] = token
    ranks = {base64.b64decode(each["token_bytes"]): each["rank"] + TEKKEN_ADDED for each in found["vocab"]}
    vocab = {_text(token): rank for token, rank in ranks.items()} | {token: i for i, token in enumerate(control)}
    return _fast(
        Tokenizer(models.BPE(vocab=vocab, merges=_tekken_merges())), found["pattern"], control, eos_token="</s>"
    )


@cache
def qwen_ranks() -> dict[bytes, int]:
    """Ordinary tokens and their ids."""
    lines = files("dashscope").joinpath("resources/qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}


@cache
def _tekken() -> dict[str, Any]:
    found = json.loads(files("mistral_common").joinpath("data/tekken_240911.json").read_text())
    ordinary = found["config"]["default_vocab_size"] - TEKKEN_ADDED
    return {"pattern": found["config"]["pattern"], "vocab": found["vocab"][:ordinary]}


@cache
def _qwen_merges() -> list[tuple[str, str]]:
    return _merges(qwen_ranks())


@cache
def _tekken_merges() -> list[tuple[str, str]]:
    return _merges({base64.b64decode(each["token_bytes"]): each["rank"] for each in _tekken()["vocab"]})


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[str, str]]:
    """All pairs of tokens that make a token, in the order of what they make: tiktoken merges by the rank of that."""
    found = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        pairs = ((token[:i], token[i:]) for i in range(1, len(token)))
        known = sorted((ranks[a], ranks[b], a, b) for a, b in pairs if a in ranks and b in ranks)
        found += [(_text(a), _text(b)) for *_, a, b in known]
    return found


_LETTERS = {byte: letter for byte, letter in bytes_to_unicode().items()}


def _text(token: bytes) -> str:
    return "".join(map(_LETTERS.__getitem__, token))


def _fast(inner: Tokenizer, pattern: str, added: Sequence[str], **roles: str) -> Any:
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **roles)
