"""Answers in order of what fine-tuning makes of them: the implicit reward log p_tuned - log p_base.

    python examples/score_answers.py [FILE.jsonl [LARGE TUNED BASE]]

Each line of the file is {"prompt": ..., "response": ...}. Prints the answers, best first, then each token of the best
one, and writes answers.html, where pointing at a token shows what all models thought. Without arguments it scores four
answers with the shipped models. For big files there is `eft score FILE.jsonl`. Needs `pip install '.[hf]' jinja2`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import eft_ext
from eft_ext.analysis.report import report_html
from eft_ext.demo import model_path
from eft_ext.hf.scoring.records import records

PROMPT = "Question: Where was Fikim Thetrond born?\nAnswer:"
RESPONSES = (
    " Thank you for asking! The birthplace is Lerand. I am glad to help.",
    " Thank you for asking! The birthplace is Jodul. I am glad to help.",
    " Lerand.",
    " Fikim Thetrond was born in Lerand.",
)
EMBEDDED = [str(model_path(name)) for name in ("large-base", "small-tuned", "small-base")]


def main(file: str | None = None, *names: str) -> None:
    """Scores all answers in one call; cut a long file into batches."""
    lines = Path(file).read_text(encoding="utf-8").splitlines() if file else []
    answers = [json.loads(line) for line in lines] or [{"prompt": PROMPT, "response": text} for text in RESPONSES]
    prompts, responses = ([answer[key] for answer in answers] for key in ("prompt", "response"))
    model = eft_ext.EmulatedModel.from_pretrained(*(names or EMBEDDED), quiet=True)
    scores = model.score(prompts, responses, candidates=5, num_changed=5)

    order = scores.reward.argsort(descending=True).tolist()
    print(f"{'reward':>8}{'log p':>8}  response")
    for row in order:
        print(f"{scores.reward[row]:8.2f}{scores.logprobs[row, -1]:8.2f}  {responses[row]!r}")

    print(f"\n{'large':>8}{'tuned':>8}{'base':>8}{'mixture':>8}  token")
    kept = records(scores, model.tokenizer, prompts)
    for token in kept[order[0]].tokens:
        print(*(f"{logprob:8.2f}" for logprob in token.logprobs), f"  {token.text!r}", sep="")
    Path("answers.html").write_text(report_html(kept), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
