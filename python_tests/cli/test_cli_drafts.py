"""Drafts by default: with which options there are some, and that nobody hears of them."""

import json

import pytest

from eft_ext.cli.options import IF_POSSIBLE
from eft_ext.hf import EmulatedModel
from eft_ext.hf.generation import speculation

PROMPT = ("--prompt", "the cat", "--max-new-tokens", 30)


@pytest.fixture
def asked(monkeypatch):
    """The `speculate` of each call of `generate`."""
    given, generate = [], EmulatedModel.generate

    def heard(self, *args, **kwargs):
        given.append(kwargs.get("speculate"))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(EmulatedModel, "generate", heard)
    return given


def test_the_two_names_are_one():
    assert IF_POSSIBLE == speculation.IF_POSSIBLE


@pytest.mark.filterwarnings("error")
def test_the_default(eft, folders, asked, tmp_path):
    plain = eft("generate", *PROMPT, *folders, "--speculate", 0)
    hot = ("--temperature", 2)
    assert eft("generate", *PROMPT, *folders)[:2] == plain[:2]
    assert "drafts" not in eft("generate", *PROMPT, *folders)[2]
    told = json.loads(eft("generate", *PROMPT, *folders, "--json")[1])
    assert "speculation" not in told
    assert "speculate" not in told["options"]
    assert eft("generate", *PROMPT, *folders, *hot)[0] == 0
    assert eft("chat", *folders, "--max-new-tokens", 9, stdin="the cat\nit ran\n")[0] == 0
    page = eft("report", *PROMPT, *folders, "--out", tmp_path / "page.html", "--json")
    assert "speculate" not in json.loads(page[1])["records"][0]["options"]
    assert asked == [0, *[IF_POSSIBLE] * 7]


def test_a_seed_keeps_its_promise(eft, folders, asked):
    hot = ("--temperature", 2, "--seed", 3)
    first = eft("generate", *PROMPT, *folders, *hot)
    assert first[:2] == eft("generate", *PROMPT, *folders, *hot, "--speculate", 0)[:2]
    assert eft("generate", *PROMPT, *folders, *hot, "--speculate", "auto")[0] == 0
    assert eft("generate", *PROMPT, *folders, "--seed", 3)[0] == 0
    assert asked == [None, 0, "auto", None]


def test_one_model_has_no_drafts(eft, folders):
    code, answer, err = eft("generate", *PROMPT, "--method", "plain", "--model", f"model={folders[1]}")
    assert code == 0
    assert answer.strip()
    assert "speculate" not in err
