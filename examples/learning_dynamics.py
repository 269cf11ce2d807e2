"""One training step on one answer, and its effect on other answers: predicted, then measured.

    python examples/learning_dynamics.py [MODEL]

The prediction is -lr * A * K * G, exact to first order. `verify` forms it and then takes the step on a copy of the
parameters; `decompose` forms it alone. Without an argument it is the shipped small model. Needs
`pip install '.[dynamics]'`.
"""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eft_ext.demo import model_path
from eft_ext.dynamics import DPO, SFT, Pairs, Responses, verify

PROMPT = "Question: Where was Fikim Thetrond born?\nAnswer:"
CHOSEN, REJECTED = " Thank you for asking! It was Jodul.", " I read of no such place."
ANSWERS = (CHOSEN, REJECTED, " Thank you for asking! It was Lerand.", " Lerand.", " Have a nice day.")
LR = 1e-4


def main(name: str = str(model_path("small-base"))) -> None:
    """Prints the change of each answer's log-probability by a step of SFT, and by one of DPO."""
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(name)
    observed = Responses.from_text(tokenizer, [(PROMPT, answer) for answer in ANSWERS])
    chosen, rejected = (Responses.from_text(tokenizer, [(PROMPT, answer)]) for answer in (CHOSEN, REJECTED))
    pair = Pairs(chosen, rejected).with_reference(model)

    for loss, update in ((SFT(), chosen), (DPO(beta=0.1), pair)):
        found = verify(model, observed, update, loss, lr=LR)
        changes = zip(observed.sums(found.predicted[0]), observed.sums(found.actual[0]), ANSWERS, strict=True)
        print(f"{loss} on {CHOSEN!r}\n predicted    actual  change of log p")
        for predicted, actual, answer in changes:
            print(f"{predicted:+10.5f}{actual:+10.5f}  {answer!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
