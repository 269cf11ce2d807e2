"""Tokens as they come, from `EmulatedModel.generate` and from transformers' own `generate`.

    python examples/stream.py [LARGE TUNED BASE]

The first answer is printed word by word and ended early, as soon as the loop that reads it has seen enough. The second
comes from the large model's own `generate`: transformers drops a `streamer=` beside `custom_generate=`, so the streamer
goes into `custom_generate(...)`. Without arguments it runs the shipped models. Needs `pip install '.[hf]'`.
"""

from __future__ import annotations

import sys
from threading import Event, Thread
from typing import Any

import torch
from transformers import TextIteratorStreamer, TextStreamer

import eft_ext
from eft_ext.demo import model_path

PROMPT = "Question: Where was Fikim Thetrond born?\nAnswer:"
EMBEDDED = [str(model_path(name)) for name in ("large-base", "small-tuned", "small-base")]


def words(model: Any, prompt: str, stop: Event, **options: Any) -> TextIteratorStreamer:
    """Begins to generate in a thread; read the result with `for`, set `stop` to end it."""
    streamer = TextIteratorStreamer(model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    criterion = lambda ids, scores, **_: torch.full((len(ids),), stop.is_set())  # noqa: E731
    options |= {"streamer": streamer, "stopping_criteria": [criterion]}
    Thread(target=model.generate, args=(prompt,), kwargs=options, daemon=True).start()
    return streamer


def main(*names: str) -> None:
    """Streams an answer up to the end of its first sentence, then a whole one."""
    model = eft_ext.EmulatedModel.from_pretrained(*(names or EMBEDDED), quiet=True)

    stop = Event()
    for word in words(model, PROMPT, stop, max_new_tokens=100):
        print(word, end="", flush=True)
        if "!" in word or "." in word:
            stop.set()  # what was generated meanwhile still comes
    print()

    streamer = TextStreamer(model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    inputs = model.tokenizer(PROMPT, return_tensors="pt")
    loop = eft_ext.custom_generate(model.tuned, model.base, streamer=streamer)
    model.large.generate(**inputs, custom_generate=loop, max_new_tokens=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
