"""Exact speculation: the small tuned model drafts, the others check its drafts; the text stays the same.

    python examples/speculate.py [LARGE TUNED BASE]

Prints tokens per second without drafts and with 2, 4 and 8 of them, and how many were accepted. Tiny models gain
little, since Python takes most of their time. Without arguments it runs the shipped models. Needs
`pip install '.[hf]'`.
"""

from __future__ import annotations

import sys
import time

import eft_ext
from eft_ext.demo import model_path

PROMPT = "Question: Where was Fikim Thetrond born?\nAnswer:"
EMBEDDED = [str(model_path(name)) for name in ("large-base", "small-tuned", "small-base")]


def main(*names: str) -> None:
    """Generates greedily in each way, and compares the texts."""
    model = eft_ext.EmulatedModel.from_pretrained(*(names or EMBEDDED), quiet=True)
    options = {"max_new_tokens": 100, "return_output": True, "return_dict_in_generate": True}
    length = len(model.tokenizer(PROMPT).input_ids)
    plain = ""
    for drafts in (0, 2, 4, 8):
        model.generate_text(PROMPT, speculate=drafts, **options)  # the first call also prepares
        began = time.perf_counter()
        (text,), output = model.generate_text(PROMPT, speculate=drafts, **options)
        speed = (output.sequences.shape[1] - length) / (time.perf_counter() - began)
        plain = plain or text
        line = f"{drafts} drafts: {speed:.0f} tokens a second, same text: {text == plain}"
        if drafts:
            found = output.speculation
            line += f", {found.acceptance:.0%} accepted, {found.tokens_per_round:.1f} tokens a round"
        print(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
