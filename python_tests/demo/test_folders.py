"""Folders of models that `eft demo --models` and the loaders are given: checked, and none looked for on the hub."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from eft_ext.cli import main
from eft_ext.demo import MODELS, TALKATIVE, TRIO, model_path
from eft_ext.demo.recipe import QUICK
from eft_ext.demo.train import add_talkative
from eft_ext.demo.trio import load_talkative, load_trio

NOTES = model_path(MODELS[0]).parent / "training.json"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped models in a folder of one's own, by a relative path of one part, and no way to the hub."""
    (tmp_path / "mine").mkdir()
    for name in MODELS:
        (tmp_path / "mine" / name).symlink_to(model_path(name))
    shutil.copy(NOTES, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", None)
    return Path("mine")


def own(folder: Path, name: str, **settings: Any) -> None:
    """Makes a model of the folder a copy, with settings of its own."""
    (folder / name).unlink()
    shutil.copytree(model_path(name), folder / name)
    file = folder / name / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_missing(
    mine: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine / name).unlink()
    monkeypatch.setattr("eft_ext.demo.trio.load_model", None)
    more = () if name in TRIO else ("--interpolate",)
    words = f"--models: expected a folder with {name}, found none in mine"
    assert said(capsys, "demo", "--models", mine, "--questions", 1, *more) == f"eft: {words}\n"
    with pytest.raises(ValueError, match=f"^{words}$"):
        (load_trio if name in TRIO else load_talkative)(mine)


def test_a_tokenizer_that_is_missing(mine: Path) -> None:
    own(mine, "small-tuned")
    for file in (mine / "small-tuned").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"^--models: expected a folder with a tokenizer, found none in mine"):
        load_trio(mine)


WRONG = {
    "seed": (None, "0", True, 0.5, -1),
    "recipe": (None, 3, []),
    "recipe.people": (None, "480", True, -1, 0, 1, 10**6),
    "recipe.towns": (None, [72], 0, -3, 10**6),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_notes_of_another_kind(mine: Path, key: str, value: object, capsys: pytest.CaptureFixture[str]) -> None:
    about = json.loads(NOTES.read_text())
    place, last = (about["recipe"], key.partition(".")[2]) if "." in key else (about, key)
    place[last] = value
    (mine / "training.json").write_text(json.dumps(about))
    err = said(capsys, "demo", "--models", mine, "--questions", 1)
    assert err.startswith(f"eft: mine/training.json, key '{'recipe.people' if key == 'recipe' else key}': expected a ")


@pytest.mark.parametrize(("key", "value"), [("models", []), ("models", None), ("seconds", "1"), ("seconds", -1)])
def test_notes_of_another_kind_for_the_second_behaviour(mine: Path, key: str, value: object) -> None:
    (mine / "training.json").write_text(json.dumps(json.loads(NOTES.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=f"^mine/training.json, key '{key}': expected an? "):
        add_talkative(mine, QUICK, Console(file=io.StringIO()))


def test_the_second_behaviour_of_another_world(mine: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a world of 24 people and 8 towns.*, got 480 and 72; --quick"):
        add_talkative(mine, QUICK, Console(file=io.StringIO()))


# Each would change the answers, or stop them.
OPINIONS: list[dict[str, Any]] = [
    {"repetition_penalty": 5.0},
    {"repetition_penalty": "x"},
    {"num_beams": 4},
    {"suppress_tokens": list(range(2, 99))},
    {"no_repeat_ngram_size": 1, "min_new_tokens": 39},
]


@pytest.mark.parametrize("settings", OPINIONS, ids=lambda settings: next(iter(settings)))
def test_settings_of_a_model_are_not_used(mine: Path, settings: dict[str, Any]) -> None:
    own(mine, TALKATIVE, **settings)
    key = next(iter(settings))
    with pytest.warns(UserWarning, match=f"^--models: not used: .*{key} .* of mine/small-talkative's configuration$"):
        model = load_talkative(mine)
    assert torch.equal(greedy(model), greedy(AutoModelForCausalLM.from_pretrained(model_path(TALKATIVE))))


def test_special_tokens_of_a_model_are_used(mine: Path) -> None:
    whole = greedy(load_talkative()).tolist()
    third = whole[2]
    own(mine, TALKATIVE, eos_token_id=[0, third])
    assert greedy(load_talkative(mine)).tolist() == whole[: whole.index(third) + 1] != whole


def greedy(model: Any) -> torch.Tensor:
    """The new tokens of one answer."""
    ids = torch.tensor([[0, 300, 301, 302]])
    return model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20)[0, 4:]


@pytest.mark.slow
def test_settings_of_no_model_are_used(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answers of all that the command asks are those of the shipped models."""
    asked = ("demo", "--questions", "2", "--shown", "2", "--no-sampled", "--json")
    main([*asked])
    answers = json.loads(capsys.readouterr().out)["answers"]
    for name in TRIO:
        own(mine, name, repetition_penalty=5.0, num_beams=4)
    main([*asked, "--models", "mine"])
    out, err = capsys.readouterr()
    assert json.loads(out)["answers"] == answers
    assert [line.split(" of ")[-1] for line in err.splitlines()] == [f"mine/{name}'s configuration" for name in TRIO]
