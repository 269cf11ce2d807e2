"""The embedded trio in a plain loop over whole texts, for tools that are to say the same."""

from functools import cache

from transformers import AutoModelForCausalLM, AutoTokenizer

from eft_ext.demo import model_path
from python_tests.helpers.naive import naive

NAMES = ("large-base", "small-tuned", "small-base")


@cache
def parts():
    """The models, and the tokenizer with the chat template."""
    models = [AutoModelForCausalLM.from_pretrained(model_path(name)) for name in NAMES]
    return models, AutoTokenizer.from_pretrained(model_path("small-tuned"))


def greedy(prompt, new, beta=1.0):
    """The text that follows a text, or a chat, as the likeliest tokens of large + beta·(tuned − base)."""
    models, tokenizer = parts()
    if isinstance(prompt, str):
        ids = tokenizer(prompt).input_ids
    else:
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    mixed = naive(models, lambda _, z: z[0] + beta * (z[1] - z[2]), [ids] * 3, new, tokenizer.vocab_size)
    end = mixed.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in mixed else new
    return tokenizer.decode(mixed[:end])
