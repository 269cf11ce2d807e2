"""Models whose files say what no model is, or what a command does not take from them: one line each."""

import json
import re
import shutil

import pytest

from eft_ext.demo import model_path

PROMPT = ("generate", "--prompt", "hi")


def changed(folder, **values):
    shutil.copytree(model_path("small-base"), folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


def asked(folder):
    small = model_path("small-base")
    return (*PROMPT, "--max-new-tokens", 2, "--large", folder, "--tuned", small, "--base", small)


def test_weights_of_other_sizes(eft, tmp_path):
    code, out, err = eft(*asked(changed(tmp_path / "m", vocab_size=1000)))
    assert (code, out) == (2, "")
    wanted = r"eft: --large: cannot load '.*': model\.embed_tokens\.weight is \[\d+, \d+\] in the file and "
    assert re.match(wanted + r"\[1000, \d+\] by config\.json", err.splitlines()[-1])


def test_weights_that_are_missing_are_told(eft, tmp_path):
    layers = json.loads((model_path("small-base") / "config.json").read_text())["num_hidden_layers"]
    code, _, err = eft(*asked(changed(tmp_path / "m", num_hidden_layers=layers + 1)))
    assert code == 0
    assert re.search(r"eft: warning: large: \d+ of the weights are not in .* and are drawn at random, first model", err)


BROKEN = {
    "--large: expected a model with layers, got num_hidden_layers 0": {"num_hidden_layers": 0},
    "--large: expected a model with layers, got num_hidden_layers -1": {"num_hidden_layers": -1},
    "--large: expected a model that returns its outputs by name": {"return_dict": False},
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_configuration_of_no_use(eft, said, tmp_path):
    code, out, err = eft(*asked(changed(tmp_path / "m", **BROKEN[said])))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"eft: {said}")


SETTINGS = {
    "generation_config.json: not JSON": "{",
    "generation_config.json: expected a JSON object, got list": "[]",
    "generation_config.json, key 'eos_token_id': expected a token id or a list of them, got 'x'": (
        '{"eos_token_id": "x"}'
    ),
    "generation_config.json, key 'eos_token_id': expected a token id or a list of them, got [0, 1.5]": (
        '{"eos_token_id": [0, 1.5]}'
    ),
    "generation_config.json, key 'eos_token_id': expected a token id or a list of them, got True": (
        '{"eos_token_id": true}'
    ),
    "generation_config.json, key 'bos_token_id': expected a token id, got 'x'": '{"bos_token_id": "x"}',
    "generation_config.json, key 'bos_token_id': expected a token id, got [1]": '{"bos_token_id": [1]}',
    "generation_config.json, key 'pad_token_id': expected a token id, got 'x'": '{"pad_token_id": "x"}',
}


@pytest.mark.parametrize("said", SETTINGS)
def test_settings_of_no_use(eft, said, tmp_path):
    """transformers passes over a file that it cannot read, and over the tokens that end a text."""
    folder = changed(tmp_path / "m")
    (folder / "generation_config.json").write_text(SETTINGS[said])
    code, out, err = eft(*asked(folder))
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_ends_that_the_model_does_not_have_are_told(eft, file, tmp_path):
    """-1, which configurations have for none, is no fault."""
    folder = changed(tmp_path / "m", eos_token_id=[1, -1, 10**9])
    if file == "config.json":
        (folder / "generation_config.json").unlink()
    else:
        (folder / file).write_text('{"eos_token_id": [1, -1, 1000000000]}')
    width = json.loads((folder / "config.json").read_text())["vocab_size"]
    code, _, err = eft(*asked(folder))
    said = f"large: {folder / file}, key 'eos_token_id': 1000000000 is none of the model's {width} tokens"
    assert code == 0
    assert [line for line in err.splitlines() if "warning" in line] == [f"eft: warning: {said}"]


@pytest.mark.parametrize("settings", [{"cache_implementation": "offloaded"}, {"use_cache": False}])
def test_how_a_model_would_be_run_is_set_aside(eft, settings, tmp_path):
    folder = changed(tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, **settings}))
    code, _, err = eft(*asked(folder))
    ((name, value),) = settings.items()
    assert code == 0
    assert err.splitlines()[-1] == f"greedy, at most 2 tokens; not used: {name} {value} of large's configuration"


def test_a_folder_of_other_models(eft, tmp_path):
    (tmp_path / "training.json").write_text('{"seed": 0}')
    code, out, err = eft("demo", "--models", tmp_path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
