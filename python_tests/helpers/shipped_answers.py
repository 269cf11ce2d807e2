"""The shipped checkpoint in the naive loop: token ids and texts that a server of it must return."""

from functools import cache
from typing import Any

from transformers import AutoTokenizer

from eft_ext.demo import checkpoint_path
from eft_ext.demo.checkpoint import FOLDERS
from python_tests.helpers import naive_loop


@cache
def models() -> list[Any]:
    return naive_loop.load(checkpoint_path(), tuple(FOLDERS.values()))


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(checkpoint_path())


def ids_of(prompt: str | list[dict[str, str]]) -> tuple[int, ...]:
    """A prompt's token ids, or a chat's with the checkpoint's template."""
    if isinstance(prompt, str):
        return tuple(tokenizer()(prompt).input_ids)
    return tuple(tokenizer().apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"])


def text_of(tokens: tuple[int, ...]) -> str:
    return tokenizer().decode(tokens, skip_special_tokens=True)


@cache
def answer(ids: tuple[int, ...], beta: float | None = None, count: int = 16) -> tuple[int, ...]:
    """The likeliest tokens of large + beta·(tuned − base), up to and with the end of text; beta None is 1."""
    mixture = naive_loop.up_scaled(1.0 if beta is None else beta)
    return tuple(naive_loop.greedy(models(), mixture, ids, count, ends=(tokenizer().eos_token_id,)))
