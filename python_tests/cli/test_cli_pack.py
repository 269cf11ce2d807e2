"""`eft pack` and `eft info`: what they print and write, and that every command takes a checkpoint for its models."""

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM


def test_the_embedded_trio(eft, tmp_path):
    folder = tmp_path / "trio"
    code, out, err = eft("pack", "-o", folder)
    assert (code, err) == (0, "")
    assert out.split()[:4] == ["checkpoint", str(folder), "method", "UpScale(beta=1)"]
    assert "large  llama  803,712     3.1 MiB  " in out
    assert eft("info", folder) == (0, out, "")
    answer = ("generate", "--prompt", "With which animal did Fikim Thetrond travel?", "--json")
    code, out, _ = eft(*answer, "--large", folder)
    assert code == 0
    assert json.loads(out)["results"] == json.loads(eft(*answer)[1])["results"]


def test_in_json(eft, folders, tmp_path):
    code, out, err = eft("pack", *folders, "--beta", 0.5, "--weights", "link", "-o", tmp_path / "x", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found == json.loads(eft("info", tmp_path / "x", "--json")[1])
    assert found["method"] == "UpScale(beta=0.5)"
    assert found["ends"] == [1]
    assert list(found["models"]) == ["large", "tuned", "base"]
    assert found["models"]["large"]["where"] == folders[1]
    assert (found["models"]["tuned"]["kind"], found["models"]["tuned"]["adapter"]) == ("llama", False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "x")
    assert found["models"]["base"]["parameters"] == model.base.num_parameters()


def test_options_over_a_checkpoint(eft, folders, tmp_path):
    eft("pack", *folders, "--beta", 0.5, "-o", tmp_path / "x")
    prompt = ("--prompt", "the cat", "--max-new-tokens", 4, "--json")
    for options in (["--beta", 2.0], ["--scale", 1.5], ["--method", "amplify"], ["--conservative-top-p", 0.5]):
        code, out, _ = eft("generate", "--large", tmp_path / "x", *options, *prompt)
        assert code == 0
        plain = json.loads(eft("generate", *folders, *options, *prompt)[1])
        found = json.loads(out)
        assert found["results"] == plain["results"]
        assert found["options"]["method"] == plain["options"]["method"]
    code, out, _ = eft("generate", "--large", tmp_path / "x", *prompt)
    assert json.loads(out)["options"]["method"] == "UpScale(beta=0.5)"


def test_other_methods(eft, folders, tmp_path):
    large, base = folders[1], folders[5]
    named = ["--model", f"expert={large}", "--model", f"amateur={base}"]
    code, out, _ = eft("pack", "--method", "contrast", *named, "-o", tmp_path / "contrast")
    assert code == 0
    assert "Contrast(beta=0.5, plausibility=0.1)" in out
    prompt = ("generate", "--prompt", "the cat", "--max-new-tokens", 4, "--json")
    weaker = json.loads(eft(*prompt, "--large", tmp_path / "contrast", "--beta", 0.25)[1])
    assert weaker["options"]["method"] == "Contrast(beta=0.25, plausibility=0.1)"
    assert weaker["results"] == json.loads(eft(*prompt, "--method", "contrast", "--beta", 0.25, *named)[1])["results"]
    first = json.loads(eft(*prompt, "--large", tmp_path / "contrast")[1])
    assert first["results"] == json.loads(eft(*prompt, "--method", "contrast", *named)[1])["results"]


def test_wrong(eft, folders, tmp_path):
    eft("pack", *folders, "-o", tmp_path / "x")
    shutil.rmtree(tmp_path / "x" / "base")
    (tmp_path / "file").write_text("")
    for said, arguments in {
        f"--out: expected one that is not there, got {tmp_path / 'x'}": ("pack", *folders, "-o", tmp_path / "x"),
        "--out: expected a folder, got the file": ("pack", *folders, "-o", tmp_path / "file"),
        "--weights: expected one of copy, link": ("pack", *folders, "-o", tmp_path / "y", "--weights", "move"),
        "--settings-from: expected one of large": ("pack", *folders, "-o", tmp_path / "y", "--settings-from", "no"),
        "--revision: expected NAME=REVISION": ("pack", *folders, "-o", tmp_path / "y", "--revision", "main"),
        "--base: expected a model beside the others": ("pack", *folders[:4], "--method", "weighted", "-o", "y"),
        "base: expected config.json in": ("info", tmp_path / "x"),
        "--large: ": ("generate", "--large", tmp_path / "x", "--method", "plain", "--prompt", "a"),
        "checkpoint: expected one of eft pack": ("info", folders[1]),
        "checkpoint: no such folder": ("info", "./gone"),
    }.items():
        code, out, err = eft(*arguments)
        assert (code, out) == (2, ""), said
        assert err.startswith("eft: "), said
        assert err.count("\n") == 1
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("command", ["pack", "info"])
def test_help(eft, command):
    code, out, _ = eft(command, "--help")
    assert code == 0
    assert f"eft {command}" in out
