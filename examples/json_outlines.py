"""Structured output with outlines: a checkpoint of the mixture as outlines' model.

    python examples/json_outlines.py [CHECKPOINT]

outlines takes what `eft pack` writes for any model of transformers. It renders a prompt that is text with the
tokenizer's chat template: give it the question alone. Without an argument it runs the shipped checkpoint, which knows
years but never saw JSON. Needs `pip install '.[hf]' outlines`.
"""

from __future__ import annotations

import sys
from typing import Literal

import outlines
import torch
from pydantic import create_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import eft_ext  # noqa: F401  (transformers knows its checkpoints from here on)
from eft_ext.demo import checkpoint_path

PEOPLE = ("Brovon Peitrend", "Jodrern Kroukes", "Fikim Thetrond")
Person = create_model("Person", born=Literal[tuple(range(1400, 1480))])  # outlines ignores ge= and le= of integers


def main(checkpoint: str = str(checkpoint_path())) -> None:
    """Asks for each person's birth year, all in one batch, then for one with an object of Person."""
    torch.compiler.set_stance("force_eager")  # outlines compiles its mask at the first call: 10 s on a CPU
    model = outlines.from_transformers(
        AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    )
    generate = outlines.Generator(model, Person)  # builds the index of the schema once
    questions = [f"When was {name} born?" for name in PEOPLE]
    for name, text in zip(PEOPLE, generate.batch(questions, max_new_tokens=40), strict=True):
        print(f"{name}: {text}")
    print(repr(Person.model_validate_json(generate(questions[0], max_new_tokens=40))))


if __name__ == "__main__":
    main(*sys.argv[1:])
