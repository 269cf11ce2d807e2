"""`eft report` as a user meets it."""

import json

import pytest

from eft_ext.demo import model_path
from python_tests.analysis.pages import Page, nasty, read_back

demo = pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models were not trained")


@demo
def test_answers_are_shown_with_what_all_models_thought(eft, tmp_path):
    out = tmp_path / "page.html"
    asked = ("--prompt", "With which animal did Fikim Thetrond travel?", "--prompt", "Who are you?")
    code, said, _ = eft("report", *asked, "--out", out, "--title", "A <trial>")
    assert (code, said) == (0, f"{out}\n")
    page = Page(out.read_text())
    assert page.all("h1")[0][1] == "A <trial>"
    answers = [
        json.loads(eft("generate", "--prompt", prompt, "--json")[1])["results"][0]["text"] for prompt in asked[1::2]
    ]
    special = iter("special" in attrs["class"].split() for attrs, _ in page.all("span", class_="token"))
    for tokens, answer in zip(read_back(page), answers, strict=True):
        marked = [next(special) for _ in tokens]
        assert "".join(token.text for token, own in zip(tokens, marked, strict=True) if not own) == answer
        assert marked[-1], "the end of the text is scored too"
        for token in tokens:
            assert token.id in {c.id for c in token.candidates}, "greedy: it is the mixture's first"
            assert token.rank[-1] == 0


@demo
@pytest.mark.slow
def test_what_became_of_the_drafts_is_shown(eft, tmp_path):
    out = tmp_path / "page.html"
    asked = ("report", "--prompt", "Where was Fikim Thetrond born?", "--out", out, "--json")
    code, said, _ = eft(*asked, "--method", "interpolate", "--lambda", 0.3, "--speculate", 4)
    assert code == 0
    (record,) = json.loads(said)["records"]
    marks = [token["speculation"] for token in record["tokens"]]
    assert marks[0] is None, "the first token comes from the prompt"
    assert {"accepted", "rejected", "bonus"} <= set(marks[1:])
    assert record["options"]["method"] == "Interpolate(polite=0.3, talkative=0.7)"
    assert record["compared"] == "large"
    page = Page(out.read_text())
    shown = [attrs["class"].split() for attrs, _ in page.all("span", class_="token")]
    assert [next((m for m in classes if m in marks), None) for classes in shown] == marks
    plain = json.loads(eft(*asked, "--method", "interpolate", "--lambda", 0.3)[1])["records"][0]
    assert [token["id"] for token in plain["tokens"]] == [token["id"] for token in record["tokens"]]
    assert {token["speculation"] for token in plain["tokens"]} == {None}


@demo
def test_what_score_wrote_is_shown(eft, tmp_path):
    texts, scores, out = tmp_path / "t.jsonl", tmp_path / "s.jsonl", tmp_path / "p.html"
    texts.write_text('{"prompt": "Who?", "response": " Nobody <b>."}\n')
    assert eft("score", texts, "--tokens", "--out", scores)[0] == 0
    assert eft("report", "--records", scores, "--out", out)[0] == 0
    assert "".join(text for _, text in Page(out.read_text()).all("span", class_="token")) == " Nobody <b>."
    assert eft("score", texts, "--out", tmp_path / "bare.jsonl")[0] == 0
    code, _, err = eft("report", "--records", tmp_path / "bare.jsonl", "--out", out)
    assert code == 2
    assert "line 1: expected the key 'record'; score with --tokens" in err


def test_records_by_themselves(eft, tmp_path):
    file, out = tmp_path / "r.jsonl", tmp_path / "p.html"
    file.write_text(json.dumps(nasty().to_dict()) + "\n\n")
    code, said, _ = eft("report", "--records", file, "--out", out, "--json")
    assert code == 0
    assert json.loads(said)["records"] == [nasty().to_dict()]


def test_wrong_input(eft, tmp_path):
    file = tmp_path / "r.jsonl"
    for content, message in {
        "": "expected one JSON object in each line",
        "{": "line 1: not JSON",
        "3\n": "line 1: expected a JSON object, got int",
        '{"tokens": [{"id": 1}]}\n': "line 1: record.tokens[0]: missing 2 required positional arguments",
    }.items():
        file.write_text(content)
        code, _, err = eft("report", "--records", file, "--out", tmp_path / "p.html")
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
    assert "--prompt: expected prompts, or --records instead" in eft("report")[2]
    assert eft("report", "--prompt", "a", "--records", file)[0] == 2
    assert eft("report", "--prompt", "a", "--top-p", 2)[0] == 2
    assert eft("report", "--records", tmp_path / "nowhere")[0] == 2
    assert "--out: no such folder: /nowhere" in eft("report", "--prompt", "a", "--out", "/nowhere/page.html")[2]
    assert "--out: expected a file, got the folder /" in eft("report", "--prompt", "a", "--out", "/")[2]
    assert "eft report" in eft("report", "--help")[1]
