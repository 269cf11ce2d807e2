"""Structured output with xgrammar: the mixture answers in JSON that fits a schema.

    python examples/json_xgrammar.py [LARGE TUNED BASE]

xgrammar's own processor goes into `generate`; make a new one for each call. In a loop of your own, give its bitmask to
the step: `fused_step(large, tuned, base, token_bitmask=bitmask)`. Without arguments it runs the shipped models, which
know years but never saw JSON. Needs `pip install '.[hf]' xgrammar`.
"""

from __future__ import annotations

import sys
from typing import Any

import xgrammar
from xgrammar.contrib.hf import LogitsProcessor

import eft_ext
from eft_ext.demo import model_path

PEOPLE = ("Brovon Peitrend", "Jodrern Kroukes", "Fikim Thetrond")
SCHEMA = {
    "type": "object",
    "properties": {"born": {"type": "integer", "minimum": 1400, "maximum": 1479}},
    "required": ["born"],
    "additionalProperties": False,
}
EMBEDDED = [str(model_path(name)) for name in ("large-base", "small-tuned", "small-base")]


def grammar_of(model: Any, schema: dict[str, Any]) -> xgrammar.CompiledGrammar:
    """The schema for the model's tokens; compile it once, for any number of calls."""
    info = xgrammar.TokenizerInfo.from_huggingface(model.tokenizer, vocab_size=model.config.vocab_size)
    # Without this a small model may write blanks until max_new_tokens, since JSON allows them.
    return xgrammar.GrammarCompiler(info).compile_json_schema(schema, any_whitespace=False)


def main(*names: str) -> None:
    """Asks for each person's birth year, all in one batch."""
    model = eft_ext.EmulatedModel.from_pretrained(*(names or EMBEDDED), quiet=True)
    prompts = [f"Question: When was {name} born?\nAnswer:" for name in PEOPLE]
    processor = LogitsProcessor(grammar_of(model, SCHEMA))
    texts = model.generate_text(prompts, logits_processor=[processor], max_new_tokens=40)
    for name, text in zip(PEOPLE, texts, strict=True):
        print(f"{name}: {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
