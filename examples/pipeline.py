"""A checkpoint in transformers' pipeline: python examples/pipeline.py [CHECKPOINT]; the shipped one unless given.

Needs `pip install '.[hf]' jinja2`.
"""

from __future__ import annotations

import sys

from transformers import pipeline

import eft_ext  # noqa: F401  (transformers knows its checkpoints from here on)
from eft_ext.demo import checkpoint_path

QUESTIONS = ("Where was Fikim Thetrond born?", "With which animal did Fikim Thetrond travel?")


def main(checkpoint: str) -> None:
    """Continues a text, answers two chats at once, and continues the text as the large model alone would."""
    generate = pipeline("text-generation", checkpoint)
    options = {"max_new_tokens": 30, "do_sample": False}

    text = "The ship was commanded by"
    print(generate(text, **options)[0]["generated_text"])

    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    for messages in generate(chats, batch_size=len(chats), **options):
        for message in messages[0]["generated_text"]:
            print(f"{message['role']}: {message['content'].strip()}")

    print(generate(text, beta=0, **options)[0]["generated_text"])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(checkpoint_path()))
