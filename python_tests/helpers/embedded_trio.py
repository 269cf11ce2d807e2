"""The embedded trio in a plain loop over whole texts, for tools and engines that are to say the same."""

from functools import cache

from transformers import AutoTokenizer

from eft_ext.demo import checkpoint_path
from eft_ext.demo.checkpoint import FOLDERS
from python_tests.helpers import naive


@cache
def parts():
    """The models in fp32, and the tokenizer with the chat template."""
    return naive.load(checkpoint_path(), FOLDERS.values()), AutoTokenizer.from_pretrained(checkpoint_path())


def ids_of(prompt):
    """The token ids of a text, or of a chat."""
    tokenizer = parts()[1]
    if isinstance(prompt, str):
        return tuple(tokenizer(prompt).input_ids)
    return tuple(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"])


def text_of(tokens):
    """The text of token ids, without the end of text."""
    return parts()[1].decode(tokens, skip_special_tokens=True)


@cache
def answer(ids, beta=None, count=16):
    """The likeliest tokens of large + beta·(tuned − base), up to and with the end of text; beta None is 1."""
    models, tokenizer = parts()
    mixture = naive.up_scaled(1.0 if beta is None else beta)
    return tuple(naive.greedy(models, mixture, ids, count, ends=(tokenizer.eos_token_id,)))


def greedy(prompt, new, beta=1.0):
    """The text of `answer` to a text, or to a chat."""
    return text_of(answer(ids_of(prompt), beta, new))
