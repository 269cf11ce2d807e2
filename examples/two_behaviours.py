"""Two behaviours in five proportions, all in one batch: from talkative to polite.

    python examples/two_behaviours.py [LARGE POLITE TALKATIVE BASE]

The two tuned models are mixed on top of the large one; each row of the batch has a share of its own. Without arguments
it runs the shipped models. Needs `pip install '.[hf]'`.
"""

from __future__ import annotations

import sys

import eft_ext
from eft_ext.demo import model_path
from eft_ext.methods import Interpolate

PROMPT = "Question: Which instrument did Krulass Radrin play?\nAnswer:"
SHARES = [0.0, 0.25, 0.5, 0.75, 1.0]
EMBEDDED = [str(model_path(name)) for name in ("large-base", "small-tuned", "small-talkative", "small-base")]


def main(*names: str) -> None:
    """Prints the answer at each share of the polite model."""
    large, polite, talkative, base = names or EMBEDDED
    tuned = {"polite": polite, "talkative": talkative}
    model = eft_ext.EmulatedModel.from_pretrained(large, tuned, base, quiet=True)
    method = Interpolate.between("polite", "talkative", SHARES)
    texts = model.generate_text([PROMPT] * len(SHARES), method=method, max_new_tokens=40)
    for share, text in zip(SHARES, texts, strict=True):
        print(f"{share:.0%} polite:{text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
