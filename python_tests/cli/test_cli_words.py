"""What the command line says: options by the names that were typed, never a traceback."""

import io
import json
import re
import shutil
import subprocess
import sys

import pytest
import typer

from eft_ext.cli import app, main
from eft_ext.demo import model_path

PROMPT = ("generate", "--prompt", "hi")
SAYS = {
    "--prompt: expected text, got a byte that is not UTF-8, 0xe9, at character 4": (
        "generate",
        "--prompt",
        "caf\udce9",
    ),
    "--title: expected text, got a lone surrogate, U+D800, at character 1": ("report", "--title", "\ud800"),
    "--conservative-top-p: expected a finite number in [0, 1] or one per row, got 2.0": (
        *PROMPT,
        "--conservative-top-p",
        2,
    ),
    "--conservative-set: expected one of large, tuned, base, got 'huge'": (
        *(*PROMPT, "--conservative-top-p", 0.5),
        "--conservative-set",
        "huge",
    ),
    "--lambda: expected a finite number or one per row, got nan": (
        *(*PROMPT, "--method", "interpolate"),
        "--lambda",
        "nan",
    ),
    "--plausibility: expected a finite number in [0, 1] or one per row, got inf": (
        *(*PROMPT, "--method", "contrast"),
        "--plausibility",
        "inf",
    ),
    "--beta: expected a finite number or one per row, got inf": (*PROMPT, "--beta", "inf"),
    "--large: expected a folder, got the file /dev/null": (
        *PROMPT,
        "--large",
        "/dev/null",
        "--tuned",
        "x",
        "--base",
        "y",
    ),
    "--large: no such folder: ./none": (*PROMPT, "--large", "./none", "--tuned", "x", "--base", "y"),
    "--device-map: expected devices that hold weights, got 'meta', for large": (*PROMPT, "--device-map", "meta"),
    "--device-map: expected auto, balanced, balanced_low_0, sequential or a device, got 'foo'": (
        *PROMPT,
        "--device-map",
        "foo",
    ),
    "--device-map: expected auto, balanced, balanced_low_0, sequential or a device, got ''": (
        *PROMPT,
        "--device-map",
        "",
    ),
    "--device-map: expected a device that is here, got 'cuda:99', for large: ": (*PROMPT, "--device-map", "cuda:99"),
    "--weight large: expected a finite number in float32 or one per row, got 1e+300": (
        *(*PROMPT, "--method", "weighted", "--weight", "tuned=1", "--weight", "base=1"),
        "--weight",
        "large=1e300",
    ),
    "--weight: expected one for each of large, tuned, base, got foo": (
        *(*PROMPT, "--method", "weighted"),
        "--weight",
        "foo=1",
    ),
    "--lambda of seed: expected a finite number or one per row, got nan": (
        *(*PROMPT, "--method", "interpolate", "--large", "x", "--base", "y", "--model", "seed=z"),
        "--lambda",
        "nan",
    ),
    "--temperature: expected a finite number of at least 0, got inf": (*PROMPT, "--temperature", "inf"),
    "--temperature: expected a finite number in float32, got 1e+300": (*PROMPT, "--temperature", 1e300),
    "--beta: expected a finite number in float32 or one per row, got 1e+300": (*PROMPT, "--beta", 1e300),
    "--scale: expected a finite number in float32 or one per row, got 1e+308": (*PROMPT, "--scale", 1e308),
    "--dtype: expected one of torch's, such as 'bfloat16', or 'auto', got 'foo'": (*PROMPT, "--dtype", "foo"),
    "--beta: expected a finite number or one per row, got nan": ("demo", "--beta", "nan"),
    "--questions: expected 1 to": ("demo", "--questions", 0),
    "--shown: expected 0 to 2, got 3": ("demo", "--questions", 2, "--shown", 3),
    "recording: expected a folder with a recording, got none": ("dynamics", "plot", "none", "--out", "x.png"),
    "--out: expected a name ending in .png, .svg, .pdf, got x.gif": ("dynamics", "plot", "none", "--out", "x.gif"),
    "none.jsonl: no such file or directory": ("score", "none.jsonl"),
    "--large: expected nothing beside --records": ("report", "--records", "none.jsonl", "--large", "x"),
}


@pytest.mark.parametrize("said", SAYS)
def test_one_line_with_the_option(eft, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = eft(*SAYS[said])
    assert (code, out) == (2, "")
    assert err.startswith(f"eft: {said}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_few_questions_are_all_shown(eft):
    code, out, _ = eft("demo", "--questions", 1, "--no-sampled", "--json")
    assert code == 0
    assert len(json.loads(out)["answers"]) == 1


def test_a_fault_of_the_program_is_one_line_too(eft, monkeypatch, tmp_path):
    def broken(*arguments, **options):
        raise KeyError("tuned")

    monkeypatch.setattr("eft_ext.cli.options.sampling", broken)
    assert eft(*PROMPT) == (1, "", "eft: KeyError: 'tuned' (EFT_DEBUG=1 shows where)\n")
    monkeypatch.setenv("EFT_DEBUG", "1")
    code, out, err = eft(*PROMPT)
    assert (code, out) == (1, "")
    assert err.startswith("Traceback (most recent call last):")
    code, out, err = eft("score", tmp_path / "none.jsonl")
    assert code == 2
    assert "Traceback" in err
    assert err.endswith("no such file or directory\n")


def test_a_file_that_is_cut_short_is_no_interruption(eft, monkeypatch):
    def cut(*arguments, **options):
        raise EOFError("marshal data too short")

    monkeypatch.setattr("eft_ext.cli.options.sampling", cut)
    assert eft(*PROMPT) == (2, "", "eft: a file ends too soon: marshal data too short\n")


def test_what_an_encoding_lacks_is_printed_as_an_escape(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", stream)
    assert main(["generate", "--prompt", "→", "--prompt", "Who?", "--max-new-tokens", "1"]) == 0
    assert b"\\u2192" in stream.buffer.getvalue()
    assert stream.errors == "strict"


@pytest.mark.slow
def test_bytes_on_a_real_command_line_and_in_a_pipe():
    for arguments, stdin in (([b"caf\xe9"], b""), ([b"-"], b"caf\xe9")):
        run = subprocess.run(
            [sys.executable, "-m", "eft_ext", "generate", "--prompt", *arguments],
            input=stdin,
            capture_output=True,
            timeout=120,
        )
        assert (run.returncode, run.stdout) == (2, b"")
        assert run.stderr.startswith(b"eft: --prompt")
        assert b"got a byte that is not UTF-8, 0xe9, at character 4" in run.stderr
        assert run.stderr.count(b"\n") == 1


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


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


EVERY = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_examples_can_be_pasted_from_a_narrow_terminal(eft, path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    lines = (EVERY[path].help or "").split("Examples:")[1].splitlines()
    examples = [line.strip() for line in lines if line.strip()]
    shown = [line.strip() for line in eft(*path, "--help")[1].splitlines()]
    assert examples
    for example in examples:
        assert example in shown
        assert not example.endswith("\\"), "what follows it on a terminal is not the line's end"
