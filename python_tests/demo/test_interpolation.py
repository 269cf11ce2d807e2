"""The second behaviour, and the trade-off between the two over their shares."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from eft_ext.demo.curve import run_interpolation
from eft_ext.demo.fit import IGNORE, tuning_batches
from eft_ext.demo.grade import Proportion
from eft_ext.demo.interpolation import LARGE, SHARES, SMALL, Curve, Point, answer, claims, emulated, measure
from eft_ext.demo.recipe import QUICK
from eft_ext.demo.text import FORMAT, TALKATIVE, furthers, polite, talkative
from eft_ext.demo.tokenizer import train_tokenizer
from eft_ext.demo.train import add_talkative, make
from eft_ext.demo.trio import GREEDY, UNFILTERED, Trio, load_talkative, load_trio
from eft_ext.demo.world import World


@pytest.fixture(scope="module")
def trio() -> Trio:
    return load_trio()


def test_talkative_answers_have_their_format_and_are_true() -> None:
    world, rng = World(seed=3, people=60, towns=20), random.Random(0)
    for fact in world.facts:
        facts = world.facts_of[fact.entity.name]
        said = talkative(fact, facts, rng)
        match = TALKATIVE.fullmatch(said)
        assert match is not None
        assert match["value"] == fact.value
        assert match["further"] in furthers(fact, facts)
        assert TALKATIVE.fullmatch(polite(fact)) is None
        assert FORMAT.fullmatch(said) is None
        assert TALKATIVE.fullmatch(f"{fact.value}.") is None


def test_talkative_fine_tuning_never_names_a_heldout_entity() -> None:
    world = World(0, QUICK.people, QUICK.towns)
    tokenizer = train_tokenizer(world, QUICK.vocab_size, documents_seen=500)
    heldout = {e.name for e in world.entities if e.heldout}
    batches = tuning_batches(world, tokenizer, QUICK, 0, "talkative")
    for _ in range(30):
        ids, labels = next(batches)
        for row, learnt in zip(ids, labels != IGNORE, strict=True):
            assert [name for name in heldout if name in tokenizer.decode(row)] == []
            answer = tokenizer.decode(row[learnt])
            assert TALKATIVE.fullmatch(answer.removesuffix(tokenizer.eos_token)) is not None


@pytest.mark.slow
def test_the_second_behaviour_alone_gives_the_same_weights(tmp_path: Path) -> None:
    """Trained with everything else, or later from the small base that was saved."""
    console = Console(file=io.StringIO())
    make(tmp_path, 7, QUICK, console)
    first = AutoModelForCausalLM.from_pretrained(tmp_path / "small-talkative").state_dict()
    notes = (tmp_path / "small-talkative" / "tokenizer_config.json").read_text()
    add_talkative(tmp_path, QUICK, console)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "small-talkative").state_dict()
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "small-base").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], base[name]) for name in first)
    assert (tmp_path / "small-talkative" / "tokenizer_config.json").read_text() == notes
    about = json.loads((tmp_path / "training.json").read_text())
    assert set(about["models"]) == {"small-base", "small-tuned", "small-talkative", "large-base", "large-tuned"}
    with pytest.raises(ValueError, match=r"^--out: expected a folder with small-base and training.json"):
        add_talkative(tmp_path / "nowhere", QUICK, console)


@pytest.mark.slow
def test_rows_of_one_batch_have_their_own_shares(trio: Trio) -> None:
    talking = load_talkative()
    questions = trio.world.questions("heldout")[:2]
    model = emulated(trio, talking, LARGE)
    together = answer(model, questions, (0.0, 0.4, 1.0), GREEDY)
    for row, share in enumerate((0.0, 0.4, 1.0)):
        alone = answer(model, questions[:1], (share,), GREEDY)
        assert together[0][row] == alone[0][0]
    inputs = trio.tokenizer(questions[0].prompt, return_tensors="pt")
    ids = trio.tuned.generate(**inputs, max_new_tokens=40, do_sample=False)
    small = answer(emulated(trio, talking, SMALL), questions[:1], (1.0,), GREEDY)
    said = trio.tokenizer.decode(ids[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    assert small[0][0] == said, "the behaviour of the tuned model on its own base is that model"


@pytest.mark.slow
def test_the_claim(trio: Trio) -> None:
    """On fewer questions and shares than the demonstration has, greedily."""
    questions = trio.world.questions("heldout")[:60]
    shares = (0.0, 0.3, 0.4, 0.5, 1.0)
    heard: list[int] = []
    talking = load_talkative()
    curves = [measure(trio, talking, LARGE, questions, GREEDY, shares, tick=heard.append)]
    curves.append(measure(trio, talking, SMALL, questions, GREEDY, shares))
    assert [claim.text for claim in claims(curves) if not claim.holds] == []
    assert sum(heard) == 60
    further = curves[0].at(0.0).further
    assert further is not None
    assert further.value > 0.8, "what the large model adds by itself is true as well"


def point(share: float, **changed: int) -> Point:
    made = {"polite": round(100 * share), "talkative": 100 - round(100 * share), "facts": 90} | changed
    polite, talkative, facts = (Proportion(k, 100) for k in made.values())
    return Point(share, polite, talkative, facts, None)


GOOD = [
    Curve(LARGE, [point(share) for share in SHARES]),
    Curve(SMALL, [point(share, facts=5) for share in SHARES]),
]


@pytest.mark.parametrize(
    ("on", "place", "changed"),
    [
        (0, 0, {"talkative": 94}),
        (0, 10, {"polite": 94}),
        (0, 5, {"polite": 90, "talkative": 10}),
        (0, 5, {"polite": 40, "talkative": 40}),
        (0, 5, {"facts": 84}),
        (1, 5, {"facts": 51}),
    ],
)
def test_each_claim_can_fail(on: int, place: int, changed: dict[str, int]) -> None:
    assert all(claim.holds for claim in claims(GOOD))
    points = [*GOOD[on].points]
    points[place] = point(SHARES[place], **({"facts": 5} if on else {}) | changed)
    curves = [*GOOD]
    curves[on] = replace(GOOD[on], points=points)
    assert sum(not claim.holds for claim in claims(curves)) == 1


FEW = [
    (0, 0, {"talkative": 94}, "open"),
    (0, 0, {"talkative": 60}, "FAILS"),
    (0, 5, {"polite": 90, "talkative": 10}, "FAILS"),
    (0, 5, {"polite": 42, "talkative": 40}, "open"),
    (0, 5, {"polite": 20, "talkative": 20}, "FAILS"),
    (0, 5, {"facts": 80}, "open"),
    (0, 5, {"facts": 40}, "FAILS"),
    (1, 5, {"facts": 55}, "open"),
    (1, 5, {"facts": 85}, "FAILS"),
]


@pytest.mark.parametrize(("on", "place", "changed", "word"), FEW)
def test_what_the_intervals_leave_open(on: int, place: int, changed: dict[str, int], word: str) -> None:
    points = [*GOOD[on].points]
    points[place] = point(SHARES[place], **({"facts": 5} if on else {}) | changed)
    curves = [*GOOD]
    curves[on] = replace(GOOD[on], points=points)
    words = {claim.word for claim in claims(curves)}
    assert word in words
    assert ("FAILS" in words) == (word == "FAILS")


@pytest.mark.slow
def test_few_questions_are_no_failure() -> None:
    """Six of them: the facts right vary by more than 5 points, by chance."""
    out = io.StringIO()
    assert run_interpolation(questions=6, shown=0, seed=1, console=Console(file=out, width=200))
    assert "  open   facts right change by at most 5 points" in out.getvalue()
    assert "too few questions to decide every claim" in out.getvalue()


def test_a_switch_is_no_trade_off() -> None:
    steps = [point(share, polite=100 * (share > 0.5), talkative=100 * (share <= 0.5)) for share in SHARES]
    failing = [claim.text for claim in claims([Curve(LARGE, steps), GOOD[1]]) if not claim.holds]
    assert failing == ["both behaviours in at least 10 % of the answers at three shares or more (0)"]


@pytest.mark.slow
def test_prints_answers_table_and_claims(tmp_path: Path) -> None:
    out = io.StringIO()
    report, picture = tmp_path / "curve.json", tmp_path / "curve.png"
    console = Console(file=out, width=100)
    run_interpolation(questions=6, shown=1, console=console, json_path=report, plot_path=picture)
    text = out.getvalue()
    for words in ("λ = 0.5", "polite", "talkative", "facts right", "sampled at temperature 1", "neither"):
        assert words in text
    data = json.loads(report.read_text())
    assert [p["lambda"] for p in data["curves"]["large"]] == list(SHARES)
    assert data["curves"]["large"][0]["facts"]["n"] == 6
    assert set(data["answers"][0]) == {"question", "answer", "0", "0.5", "1"}
    assert data["mode"] == UNFILTERED.name
    assert picture.read_bytes().startswith(b"\x89PNG")
    out = io.StringIO()
    run_interpolation(questions=1, shown=0, as_json=True, console=Console(file=out))
    assert set(json.loads(out.getvalue())) == {"mode", "curves", "claims", "answers"}


def test_counts_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="questions: expected 1 to"):
        run_interpolation(questions=0)
    with pytest.raises(ValueError, match="shown: expected 0 to 5"):
        run_interpolation(questions=5, shown=6)
    with pytest.raises(ValueError, match=r"^--models: expected a folder with small-talkative"):
        load_talkative(tmp_path)
