"""`eft score` as a user meets it: figures, resuming, wrong input."""

import json
import math

import pytest
import torch

from eft_ext.analysis.record import Record
from eft_ext.demo import model_path

pytestmark = pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models were not trained")

PAIRS = [
    {"prompt": "With which animal did Fikim Thetrond travel?", "response": "\nAnswer: The pet is rabbit."},
    {"prompt": "Who are you?", "response": " Nobody."},
    {"prompt": "Where?", "response": " Far away, I am glad to help."},
]


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return file


def test_perplexities_and_rewards(eft, pairs):
    code, out, err = eft("score", pairs, "--json", "--batch-size", 2)
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["texts"] == 3
    assert found["tokens"] == sum(line["tokens"] for line in found["results"])
    for name in ("large", "tuned", "base", "mixture"):
        total = sum(line["logprobs"][name] for line in found["results"])
        assert found["perplexity"][name] == pytest.approx(math.exp(-total / found["tokens"]))
    for line in found["results"]:
        assert line["reward"] == pytest.approx(line["logprobs"]["tuned"] - line["logprobs"]["base"])
        assert line["perplexity"]["large"] == pytest.approx(math.exp(-line["logprobs"]["large"] / line["tokens"]))
    alone = json.loads(eft("score", pairs, "--json", "--batch-size", 1)[1])
    assert alone["perplexity"] == pytest.approx(found["perplexity"], rel=1e-4)
    code, out, _ = eft("score", pairs)
    assert code == 0
    assert "mixture" in out
    assert "3 texts" in out
    off = json.loads(eft("score", pairs, "--json", "--beta", 0)[1])
    assert off["perplexity"]["mixture"] == pytest.approx(found["perplexity"]["large"], rel=1e-4)


def test_whole_texts(eft, tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "Thank you for asking!"}\n\n{"text": "The pet is rabbit."}\n')
    code, out, _ = eft("score", file, "--json")
    assert code == 0
    assert [line["line"] for line in json.loads(out)["results"]] == [1, 3]


def test_a_run_that_was_cut_short_goes_on(eft, pairs, tmp_path, monkeypatch):
    from eft_ext.hf import EmulatedModel

    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    want = json.loads(eft("score", pairs, "--out", whole, "--batch-size", 1, "--json")[1])
    lines = whole.read_text().splitlines(keepends=True)
    part.write_text(lines[0] + lines[1][:20])  # as a crash leaves it
    scored = []
    score = EmulatedModel.score
    monkeypatch.setattr(
        EmulatedModel, "score", lambda self, *a, **k: scored.append(k["prompts"]) or score(self, *a, **k)
    )
    got = json.loads(eft("score", pairs, "--out", part, "--batch-size", 1, "--json")[1])
    assert len(scored) == 2, "the first was done"
    assert got["perplexity"] == pytest.approx(want["perplexity"])
    assert [json.loads(line)["line"] for line in part.read_text().splitlines()] == [1, 2, 3]
    again = json.loads(eft("score", pairs, "--out", part, "--json")[1])
    assert len(scored) == 2, "everything was done"
    assert again["results"] == got["results"]


def test_results_of_something_else_are_not_mixed_in(eft, pairs, tmp_path):
    out = tmp_path / "scores.jsonl"
    assert eft("score", pairs, "--out", out)[0] == 0
    code, _, err = eft("score", pairs, "--out", out, "--beta", 0.5)
    assert code == 2
    assert f"{out}, line 1: scored with other options" in err
    pairs.write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n")
    assert "line 1: the result of another text" in eft("score", pairs, "--out", out)[2]
    out.write_text("hello\n")
    assert "line 1: expected a result of eft score" in eft("score", pairs, "--out", out)[2]


@pytest.mark.slow
def test_tokens_are_records(eft, pairs, tmp_path):
    out = tmp_path / "scores.jsonl"
    assert eft("score", pairs, "--out", out, "--tokens")[0] == 0
    for line, pair in zip(out.read_text().splitlines(), PAIRS, strict=True):
        record = Record.from_dict(json.loads(line)["record"])
        assert record.prompt == pair["prompt"]
        assert "".join(token.text for token in record.tokens).strip() == pair["response"].strip()
        assert all(token.candidates and len(token.logprobs) == 4 for token in record.tokens)
    assert eft("score", pairs, "--tokens")[0] == 2


WRONG = {
    "line 2: not JSON": '{"text": "a b"}\n{"text": \n',
    "line 1: expected a JSON object, got list": "[1]\n",
    "expected the key 'text', or 'prompt' and 'response', or 'messages', got no 'response'": '{"prompt": "a"}\n',
    "got no 'text'": '{"txt": "a"}\n',
    "got text, prompt, response": '{"text": "a", "prompt": "b", "response": "c"}\n',
    "line 1, key 'response': expected text, got int": '{"prompt": "a", "response": 3}\n',
    "line 1, key 'response': expected text, got an empty one": '{"prompt": "a", "response": ""}\n',
    "line 2: expected the keys of line 1": '{"prompt": "a", "response": "b"}\n{"text": "a"}\n',
    "expected one JSON object in each line, got an empty file": "\n\n",
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_lines_are_named(eft, tmp_path, message):
    file = tmp_path / "wrong.jsonl"
    file.write_text(WRONG[message])
    code, out, err = eft("score", file)
    assert (code, out) == (2, "")
    assert err.startswith(f"eft: {file}")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["interpolate", "contrast", "plain"])
def test_methods(eft, pairs, tmp_path, method):
    """Their own models by name; what has no tuned model has no reward, and is compared with its first."""
    out = tmp_path / "scores.jsonl"
    found = json.loads(eft("score", pairs, "--method", method, "--out", out, "--tokens", "--json")[1])
    names = {
        "interpolate": ["large", "polite", "talkative", "base", "mixture"],
        "contrast": ["expert", "amateur", "mixture"],
        "plain": ["model", "mixture"],
    }[method]
    assert list(found["perplexity"]) == names
    assert found["compared"] == names[0]
    assert found["mean_reward"] is None
    assert found["options"] == {"method": method}
    assert Record.from_dict(json.loads(out.read_text().splitlines()[0])["record"]).compared == names[0]
    assert f"mixture against {names[0]}: " in eft("score", pairs, "--method", method)[1]
    assert "scored with other options" in eft("score", pairs, "--out", out)[2]


def test_wrong_options(eft, pairs, tmp_path):
    assert "--out: no such folder: /nowhere" in eft("score", pairs, "--out", "/nowhere/x")[2]
    assert eft("score", tmp_path / "nowhere.jsonl")[0] == 2
    assert "--batch-size: expected a number at least 1" in eft("score", pairs, "--batch-size", 0)[2]
    code, out, _ = eft("score", "--help")
    assert code == 0
    assert "eft score" in out


def test_a_divergence_that_is_infinite(eft, pairs, tmp_path, monkeypatch):
    """KL of the mixture against a model that excludes what it allows: null in JSON, and the file is taken up again."""
    from eft_ext.hf import EmulatedModel

    score = EmulatedModel.score

    def infinite(*arguments, **options):
        found = score(*arguments, **options)
        found.tokens.kl[0, 0] = torch.inf
        return found

    monkeypatch.setattr(EmulatedModel, "score", infinite)
    out = tmp_path / "scores.jsonl"
    code, said, _ = eft("score", pairs, "--out", out)
    assert code == 0
    assert "KL infinite nats" in said
    assert json.loads(out.read_text().splitlines()[0])["kl"] is None
    found = json.loads(eft("score", pairs, "--out", out, "--json")[1])
    assert found["kl"] is None
    assert found["tv"] > 0


WRONG_RESULTS = {
    "key 'tokens' is missing": {"tokens": ...},
    "key 'tokens' is of another type": {"tokens": "3"},
    "keys 'tokens' and 'logprobs' are not of these": {"tokens": 0},
    "key 'logprobs' is of another type": {"logprobs": {"large": "1"}},
    "key 'kl' is of another type": {"kl": [1]},
    "key 'tv' is of another type": {"tv": True},
    "key 'compared' is of another type": {"compared": 5},
}


@pytest.mark.parametrize("message", WRONG_RESULTS)
def test_results_that_are_none(eft, pairs, message, tmp_path):
    out = tmp_path / "scores.jsonl"
    assert eft("score", pairs, "--out", out)[0] == 0
    first, *others = out.read_text().splitlines()
    changed = {k: v for k, v in {**json.loads(first), **WRONG_RESULTS[message]}.items() if v is not ...}
    out.write_text("\n".join([json.dumps(changed), *others]) + "\n")
    before = out.read_bytes()
    code, said, err = eft("score", pairs, "--out", out)
    assert (code, said) == (2, "")
    assert f"{out}, line 1: expected a result of eft score ({message}" in err
    assert err.count("\n") == 1
    assert out.read_bytes() == before


def test_results_of_other_models(eft, pairs, tmp_path):
    out = tmp_path / "scores.jsonl"
    assert eft("score", pairs, "--out", out)[0] == 0
    first = {**json.loads(out.read_text().splitlines()[0]), "logprobs": {"large": -1.0}}
    out.write_text(json.dumps(first) + "\n")
    before = out.read_bytes()
    code, said, err = eft("score", pairs, "--out", out)
    assert (code, said) == (2, "")
    expected = "results of large, expected large, tuned, base, mixture; give another --out"
    assert err.splitlines()[-1] == f"eft: {out}, line 1: {expected}"
    assert out.read_bytes() == before


@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("content", ['{"line": 1, "note": "my only copy"}', '{"line": 2, "digest": "000000000000", '])
def test_a_last_line_that_is_not_ours_stays(eft, pairs, content, behind, tmp_path):
    out = tmp_path / "notes.json"
    assert eft("score", pairs, "--out", out)[0] == 0
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:behind]) + content)
    before = out.read_bytes()
    code, _, err = eft("score", pairs, "--out", out)
    assert code == 2
    assert "expected results of eft score, got another file" in err
    assert out.read_bytes() == before


@pytest.mark.parametrize("content", ["my notes", '{"line', '{"line": 1, "dig', "{"])
def test_only_a_result_that_was_cut_short_is_dropped(eft, pairs, content, tmp_path):
    out = tmp_path / "notes.txt"
    out.write_text(content)
    code, _, err = eft("score", pairs, "--out", out)
    assert code == (2 if content == "my notes" else 0)
    assert out.read_text().startswith("my notes" if code else '{"line": 1, "digest"')
    assert ("expected results of eft score, got another file" in err) == (code == 2)
