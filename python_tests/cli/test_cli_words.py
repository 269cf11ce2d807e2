"""The command line's messages: options by the names that were typed, never a traceback."""

import io
import json
import subprocess
import sys

import pytest
import typer

from eft_ext.cli import app, main

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
