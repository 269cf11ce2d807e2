"""The token report as a document: well formed, self-contained, everything a model wrote is text."""

import json
import math
import re
from dataclasses import replace

import pytest

from eft_ext.analysis import Record, Token
from eft_ext.analysis.report import percent, report_html, view
from python_tests.analysis.pages import NASTY, Page, nasty, plain, token


@pytest.fixture(scope="module")
def page():
    return Page(report_html([nasty(), plain("one two three", "why?")], title="A <b>title</b>"))


def test_well_formed_and_labelled(page):
    assert page.unclosed == []
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs, _ in page.elements:
        for reference in ("aria-labelledby", "for"):
            assert attrs.get(reference) is None or attrs[reference] in ids
    assert page.all("html")[0][0]["lang"] == "en"
    assert page.all("title")[0][1] == "A <b>title</b>"
    assert [text for _, text in page.all("h2")] == ["1. Prompt <b>prompt</b> مرحبا", "2. Prompt why?"]
    for attrs, _ in page.all("svg"):
        assert attrs["role"] == "img"
        assert "otal variation" in attrs["aria-label"]
    assert page.all("aside")[0][0]["aria-live"] == "polite"


def test_nothing_comes_from_elsewhere(page):
    for tag, attrs, _ in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base", "form")
        assert not {"src", "href", "srcset", "action"} & set(attrs), attrs
        assert not [name for name in attrs if name.startswith("on")]
    style = page.all("style")[0][1]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(attrs["content"] for attrs, _ in page.all("meta") if "http-equiv" in attrs)
    assert "default-src 'none'" in policy


def test_what_a_model_wrote_is_text(page):
    assert len(page.all("script")) == 3
    assert len([attrs for attrs, _ in page.all("script") if attrs.get("type") != "application/json"]) == 1
    assert not page.all("b")
    assert not page.all("i", class_="x")
    tokens = page.all("span", class_="token")[: len(NASTY)]
    for (attrs, shown), text in zip(tokens, NASTY, strict=True):
        if "\n" in text:
            assert shown == "↵\n"
        elif not text:
            assert shown == "⋯"
            assert "partial" in attrs["class"]
        else:
            assert shown == text.replace("\t", "⇥\t").replace("\u202e", "⟨U+202E⟩").replace("\u200d", "⟨U+200D⟩")
    assert page.all("span", class_="special")[0][1] == "<|end|>"
    data = json.loads(next(text for attrs, text in page.all("script") if attrs.get("id") == "data"))
    assert [t["text"] for t in data[0]["record"]["tokens"]] == NASTY
    read = Record.from_dict(data[0]["record"])
    assert (read.prompt, read.options) == (nasty().prompt, nasty().options)
    for got, want in zip(read.tokens, nasty().tokens, strict=True):
        assert got.tv == pytest.approx(want.tv, rel=1e-4)
        assert (got.candidates, got.up, got.down) == (want.candidates, want.up, want.down)


def test_shades_marks_and_table(page):
    tokens = page.all("span", class_="token")
    shades = [float(attrs["style"].partition(":")[2]) for attrs, _ in tokens[: len(NASTY)]]
    assert shades == sorted(shades)
    assert (shades[0], shades[-1]) == (0.0, 1.0)
    assert [attrs["tabindex"] for attrs, _ in tokens].count("0") == 2, "one stop of the Tab key for each text"
    assert "accepted" in tokens[0][0]["class"]
    assert "rejected" in tokens[1][0]["class"]
    rows = page.all("tbody")[0][1]
    for word in ("↑", "↓", "bonus", "100 %"[:0] + "90.5 %"):
        assert word in rows
    heads = [text for attrs, text in page.all("th") if attrs.get("scope") == "col"]
    assert heads[:6] == ["#", "token", "p large", "p tuned", "p base", "p mixture"]
    bars = [attrs for tag, attrs, _ in page.elements if tag == "rect"][: len(NASTY)]
    assert all(float(b["y"]) + float(b["height"]) == pytest.approx(120, abs=0.02) for b in bars)


def test_measures_of_a_record():
    found = view(nasty())
    assert found.measures["reward"][0] == pytest.approx(-0.5)
    assert found.measures["surprise"][0] == pytest.approx(0.1)
    assert found.measures["entropy"][0] == 0.25
    assert max(found.shades["kl"]) == 1.0
    assert "15 tokens" in found.summary
    bare = Record.from_dict({"tokens": [{"id": 1, "text": "x", "logprobs": [None]}], "names": ["mixture"]})
    assert view(bare).measures == {key: [None] for key in found.measures}
    assert Page(report_html([bare])).unclosed == []


def test_the_model_that_is_compared_is_named():
    """Another than tuned: for methods that have none of this name."""
    record = replace(plain(), names=["large", "polite", "base", "mixture"], compared="polite")
    page = Page(report_html([record]))
    lead = page.all("p", class_="lead")[0][1]
    assert "the mixture is from polite there" in lead
    assert "tuned" not in lead
    assert page.all("span", id="explained")[0][1] == "mixture against polite, 0 to 1"
    assert [attrs["value"] for attrs, _ in page.all("option")] == ["tv", "kl", "entropy", "surprise"], "no reward"
    both = Page(report_html([record, plain()]))
    assert "from the model that is compared there" in both.all("p", class_="lead")[0][1]
    assert Record.from_dict(record.to_dict()) == record


def test_invisible_characters_are_seen_wherever_text_stands():
    text = "\u200b\ud800"  # half a surrogate pair, which no file could hold
    record = Record([token(text, 0)], prompt=text, options={text: text}, names=["large", "tuned", text, "mixture"])
    html = report_html([replace(record, compared=text)], title=text)
    assert text.encode("utf-16", "surrogatepass") not in html.encode("utf-16", "surrogatepass")
    page, mark = Page(html), "⟨U+200B⟩⟨U+D800⟩"
    assert page.all("title")[0][1] == page.all("h1")[0][1] == mark
    assert page.all("h2")[0][1] == f"Prompt {mark}"
    assert page.all("p", class_="summary")[0][1].endswith(f"at token 1, {mark} · {mark} {mark}")
    assert page.all("span", class_="token")[0][1] == mark
    html.encode("utf-8")


def test_the_words_hold_in_light_and_dark():
    lead = Page(report_html([plain()])).all("p", class_="lead")[0][1]
    assert "The stronger a token's\nshade, the further" in lead
    assert "darker" not in lead
    assert [view(plain(text)).summary.partition(";")[0] for text in ("a", "a b")] == ["1 token", "2 tokens"]


def test_what_has_no_mixture_is_shaded_by_what_there_is():
    """As `eft_ext.dynamics.delta_records` makes them: log-probabilities of two models, nothing else."""
    tokens = [Token(i, f" {i}", [-1.0, -1.0 - i], entropy=[1.0, 2.0]) for i in range(3)]
    page = Page(report_html([Record(tokens, names=["tuned", "base"])]))
    assert [attrs["value"] for attrs, _ in page.all("option")] == ["reward"]
    shades = [float(attrs["style"].partition(":")[2]) for attrs, _ in page.all("span", class_="token")]
    assert shades == [0.0, 0.5, 1.0]
    assert page.all("svg")[0][0]["aria-label"].startswith("Reward over the positions")
    assert page.all("span", class_="axis-name")[0][1] == "reward"
    assert page.all("span", class_="token")[2][0]["aria-label"] == " 2, token 3, reward 2.000"


def test_shares():
    cases = {0.0: "100 %", math.log(0.123): "12.3 %", math.log(0.00012): "0.012 %", math.log(3e-9): "3e-09", None: "0"}
    assert {p: percent(p) for p in cases} == cases


def test_records_as_json():
    record = nasty()
    text = json.dumps(record.to_dict(), allow_nan=False)
    assert Record.from_dict(json.loads(text)).to_dict() == record.to_dict()


WRONG = {
    "record: expected an object, got list": [],
    "record: unknown key 'token'": {"token": []},
    "record: missing 1 required positional argument: 'tokens'": {},
    "record.tokens: expected a list, got str": {"tokens": "x"},
    "record.tokens[0].text: expected str, got int": {"tokens": [{"id": 1, "text": 2, "logprobs": []}]},
    "record.tokens[0].logprobs: expected 4, one for each name, got 1": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [0.0]}]
    },
    "record.tokens[0].speculation: expected one of": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [0.0] * 4, "speculation": "maybe"}]
    },
    "record.tokens[1].logprobs: expected at most 0, got [800.0, None]": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [-1, None]}, {"id": 1, "text": "x", "logprobs": [800, None]}],
        "names": ["a", "b"],
    },
    "record.tokens[0].candidates[0].logprobs: expected at most 0, got [1.0]": {
        "tokens": [
            {"id": 1, "text": "x", "logprobs": [0], "candidates": [{"id": 2, "text": "y", "logprobs": [1]}]},
        ],
        "names": ["a"],
    },
    "record.tokens[0].tv: expected at most 1, got 3.0": {"tokens": [{"id": 1, "text": "x", "logprobs": [], "tv": 3}]},
    "record.tokens[0].entropy[1]: expected a finite number, got str": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [], "entropy": [None, "2"]}]
    },
    "record.tokens[0].kl: expected a finite number, got inf": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [], "kl": 1e999}]
    },
    "record.tokens[0].rank[0]: expected int, got bool": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [], "rank": [True]}]
    },
    "record.tokens[0].attribution.a: expected a finite number, got str": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [], "attribution": {"a": "1"}}]
    },
    "record.options: expected an object, got list": {"tokens": [], "options": [1]},
    "record.names[1]: expected str, got int": {"tokens": [], "names": ["a", 1]},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_records_are_named(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Record.from_dict(WRONG[message])


def test_nothing_to_show():
    with pytest.raises(ValueError, match="records: expected at least one"):
        report_html([])
    with pytest.raises(ValueError, match=re.escape("records[0].tokens: expected at least one")):
        report_html([Record([])])
