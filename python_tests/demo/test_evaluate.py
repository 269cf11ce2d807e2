"""The claims follow from the figures, and the divergence from the definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eft_ext.demo.evaluate import ModelFigures, claims, divergences, teacher_forced
from eft_ext.demo.grade import Proportion
from eft_ext.demo.report import Measured, as_claim, verdict
from eft_ext.demo.trio import load_trio

GOOD = {
    "large": ModelFigures("large", Proportion(450, 500), Proportion(0, 500), 1.0, 0.4),
    "small tuned": ModelFigures("small tuned", Proportion(50, 500), Proportion(500, 500), 1.0, 0.6),
    "EFT": ModelFigures("EFT", Proportion(440, 500), Proportion(495, 500), 1.0, 0.02),
    "oracle": ModelFigures("oracle", Proportion(450, 500), Proportion(500, 500), 1.0, 0.0),
}


def _failing(**changed: ModelFigures) -> int:
    rows = [changed.get(name.replace(" ", "_"), row) for name, row in GOOD.items()]
    return sum(not claim.holds for claim in claims(rows))


def test_good_figures_hold() -> None:
    assert _failing() == 0
    assert "does NOT show" not in verdict([Measured("greedy", list(GOOD.values()))])


@pytest.mark.parametrize(
    ("model", "change"),
    [
        ("EFT", {"facts": Proportion(424, 500)}),  # 5.2 points below the oracle
        ("EFT", {"format": Proportion(474, 500)}),
        ("EFT", {"kl": 0.11}),
        ("small tuned", {"facts": Proportion(241, 500)}),
        ("large", {"format": Proportion(96, 500)}),
        ("large", {"facts": Proportion(486, 500)}),  # 97.2 %: too easy a world
        ("oracle", {"facts": Proportion(399, 500), "format": Proportion(500, 500)}),
    ],
)
def test_each_claim_can_fail(model: str, change: dict[str, object]) -> None:
    assert _failing(**{model.replace(" ", "_"): replace(GOOD[model], **change)}) >= 1


@pytest.mark.parametrize(
    ("model", "change", "word"),
    [
        ("EFT", {"facts": Proportion(16, 20)}, "open"),
        ("EFT", {"facts": Proportion(5, 20)}, "FAILS"),
        ("EFT", {"format": Proportion(17, 20)}, "open"),
        ("EFT", {"format": Proportion(300, 500)}, "FAILS"),
        ("small tuned", {"facts": Proportion(11, 20)}, "open"),
        ("large", {"format": Proportion(5, 20)}, "open"),
        ("oracle", {"facts": Proportion(20, 20)}, "open"),
        ("oracle", {"facts": Proportion(8, 20)}, "FAILS"),
        ("EFT", {"kl": 0.2}, "FAILS"),
    ],
)
def test_what_few_questions_say(model: str, change: dict[str, object], word: str) -> None:
    """A claim is refuted only where the intervals leave it no room, and the verdict says which it is."""
    few = {name: replace(row, facts=_few(row.facts), format=_few(row.format)) for name, row in GOOD.items()}
    measured = Measured("greedy", list((few | {model: replace(few[model], **change)}).values()))
    words = {claim.word for claim in measured.claims}
    assert word in words
    assert measured.refuted == ("FAILS" in words)
    assert not measured.holds
    assert ("does NOT show" in verdict([measured])) == measured.refuted
    assert ("too few questions" in verdict([measured])) == (not measured.refuted)
    data = [as_claim(claim) for claim in measured.claims]
    assert [c["decided"] for c in data] == [claim.word != "open" for claim in measured.claims]


def _few(p: Proportion) -> Proportion:
    return Proportion(round(20 * p.value), 20)


def test_divergence_of_the_definition() -> None:
    trio = load_trio()
    question = trio.world.questions("heldout")[0]
    answer = " Thank you for asking!"
    kl = divergences(trio, [question], [answer], beta=1.0)
    prompt = trio.tokenizer(question.prompt).input_ids
    tokens = trio.tokenizer(answer, add_special_tokens=False).input_ids
    ids = torch.tensor([prompt + tokens])
    with torch.inference_mode():
        p, q = (m(ids).logits[0, len(prompt) - 1 :].double().log_softmax(-1) for m in (trio.oracle, trio.large))
    assert kl["large"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    assert kl["oracle"] == 0


def test_teacher_forced_rows_predict_answer_and_end() -> None:
    tokenizer = load_trio().tokenizer
    ids, predicts = teacher_forced(["Question: a\nAnswer:", "b"], [" c.", " d"], tokenizer)
    for row, (head, tail) in enumerate([("Question: a\nAnswer:", " c."), ("b", " d")]):
        positions = predicts[row].nonzero().flatten()
        answer = [*tokenizer(tail, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        assert ids[row, positions + 1 if positions[-1] + 1 < ids.shape[1] else positions].tolist() == answer
        assert positions[0] == len(tokenizer(head).input_ids) - 1
