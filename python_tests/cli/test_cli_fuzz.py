"""Every command with made-up options and files: it works or says in one line why not, and leaves files as they were."""

import json
import os
from enum import Enum
from pathlib import Path
from random import Random
from typing import get_args, get_type_hints

import pytest
import typer
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from eft_ext.cli import app
from eft_ext.demo import model_path

EXAMPLES = 6  # for each command
SMALL = str(model_path("small-base"))
WHOLE = ["0", "-1", "1", "2", "3", "99999999999999999999", "\u0663", "x"]
NUMBERS = ["0", "-1", "1", "2", "0.5", "nan", "inf", "-inf", "1e308", "1e-320", "0x10"]
TEXTS = ["", " ", "hi", "\x00", "caf\udce9", "\ud800", "a\u202eb", "-", "--", "x" * 5000, "\n", "%s{}", "=", "a=", "=b"]
PLACES = ["/etc/passwd", "/dev/null", "/dev/full", "/nowhere/at/all", "none", ".", SMALL, "a=" + SMALL, "gpt2" * 50]
FILES = {
    "empty.jsonl": b"",
    "blank.jsonl": b"\n \n",
    "binary.jsonl": bytes(range(256)) * 4,
    "bytes.jsonl": b'{"text": "caf\xe9"}\n',
    "half.jsonl": b'{"text": "\\ud800"}\n',
    "list.jsonl": b"[1, 2]\n",
    "deep.jsonl": b'{"text": ' + b"[" * 20_000 + b"\n",
    "text.jsonl": b'\xef\xbb\xbf{"text": "the cat"}\n',
    "pair.jsonl": b'{"prompt": "a", "response": "b"}\n{"prompt": "", "response": 3}\n',
    "sft.jsonl": b'{"prompt": "a", "completion": " b"}\n',
    "dpo.jsonl": b'{"prompt": "a", "chosen": " b", "rejected": " c"}\n',
    "record.jsonl": b'{"tokens": [{"id": 1, "text": "x", "logprobs": [800, "1", null, 0]}], "options": []}\n',
    "result.jsonl": b'{"line": 1, "digest": "x", "settings": "y"}\n',
    "notes.txt": b"what the user wrote",
}
# So that what works is done soon.
SMALL_CALLS = {
    "generate": {"--max-new-tokens": "2", "--prompt": "hi"},
    "chat": {"--max-new-tokens": "2"},
    "report": {"--max-new-tokens": "2", "--prompt": "hi"},
    "score": {},
    "pack": {"--out": "packed"},
    "info": {},
    "serve": {},
    "demo": {"--questions": "1", "--no-sampled": None, "--shown": "0"},
    "bench": {"--seconds": "0.001", "--vocab": "100"},
    "env": {},
    "dynamics track": {"--steps": "1", "--batch-size": "1", "--out": "run"},
    "dynamics decompose": {"--batch-size": "1", "--lr": "1e-3"},
    "dynamics plot": {},
    "dynamics diagnose": {},
    "dynamics tokens": {},
}
HEAVY = ("--questions", "--seconds", "--vocab", "--steps", "--rows", "--batch-size", "--max-new-tokens", "--shown")


def commands(app, path=()):
    """Each command's name, its parameters, and the types that they are annotated with."""
    made = typer.main.get_command(app)
    for info in app.registered_commands:
        yield " ".join((*path, info.name)), (made.commands[info.name].params, get_type_hints(info.callback))
    for group in app.registered_groups:
        yield from commands(group.typer_instance, (*path, group.typer_instance.info.name))


EVERY = dict(commands(app))


def value_of(draw, kind):
    """Something for an option, mostly of its kind."""
    kinds = {kind, *get_args(kind), *(inner for each in get_args(kind) for inner in get_args(each))}
    enums = [each for each in kinds if isinstance(each, type) and issubclass(each, Enum)]
    own = [member.value for each in enums for member in each]
    own = own or (WHOLE if int in kinds else NUMBERS if float in kinds else list(FILES) if Path in kinds else TEXTS)
    return draw.choice(own if draw.random() < 0.8 else draw.choice([TEXTS, WHOLE, NUMBERS, PLACES, list(FILES)]))


def call(draw, name):
    parameters, kinds = EVERY[name]
    options, arguments = dict(SMALL_CALLS[name]), []
    for parameter in parameters:
        option, kind = max(parameter.opts, key=len), kinds.get(parameter.name)
        if not option.startswith("--"):
            arguments.append(value_of(draw, kind))
        elif option in ("--help", "--trust-remote-code") or draw.random() < (0.99 if option in HEAVY else 0.9):
            continue
        elif kind is bool:
            options[option] = None
        else:
            value = value_of(draw, kind)
            options[option] = "0" if option in HEAVY and value.isdigit() and int(value) > 3 else value
    flat = [part for option, value in options.items() for part in (option, value) if part is not None]
    return [*name.split(), *arguments, *flat]


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name in FILES}


OUTPUTS = ("--out", "--plot", "--json-path", "--plot-path", "--save")


@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(10 * EXAMPLES, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EVERY)
def test_works_or_says_why_in_one_line(eft, name, examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    @settings(max_examples=examples, deadline=None, derandomize=True, phases=[Phase.generate], database=None)
    @given(st.integers(0, 2**32))
    def works(seed):
        for file, content in FILES.items():
            Path(file).write_bytes(content)
        check(eft, call(Random(seed), name))

    works()


def check(eft, arguments):
    code, out, err = eft(*arguments, stdin="y\n\nthe cat\n/reset\n")
    said = f"{arguments}\n{code}\n{out[-300:]}\n{err}"
    assert "Traceback" not in err, said
    known = code == 1 and (arguments[0] == "demo" or "sampled" in err or "memory" in err)
    known = known or (code == 1 and arguments[0] == "serve" and "needs" in err)  # packages of its extra
    assert code in (0, 2) or known, said
    lines = err.splitlines()
    if code == 2:
        assert lines, said
        assert lines[-1].startswith("eft: "), said
        assert sum(line.startswith("eft: ") and not line.startswith("eft: warning: ") for line in lines) == 1, said
    if code == 0 and "--json" in arguments and arguments[0] != "chat":
        json.loads(out, parse_constant=pytest.fail)
    replaced = {arguments[i + 1] for i, part in enumerate(arguments) if part in OUTPUTS}
    for file, content in FILES.items():
        assert Path(file).read_bytes() == content or (file in replaced and code == 0), f"{file} is another one: {said}"
    assert not [file for file in os.listdir() if file.endswith(".tmp")], said
