"""No command runs the code of a stranger's model without --trust-remote-code, whatever standard input says."""

import json
import sys

import pytest

from eft_ext.demo import model_path
from python_tests.helpers.untrusted_folders import stranger

SMALL = model_path("small-base")
FLAG = "pass trust_remote_code=True (on the command line --trust-remote-code) to run it"


@pytest.fixture(autouse=True)
def _apart(monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"text": "Hello there"}\n')
    (tmp_path / "sft.jsonl").write_text('{"prompt": "a", "completion": " b"}\n')
    (tmp_path / "probes.jsonl").write_text('{"prompt": "a", "chosen": " b"}\n')


DYNAMICS = ("--data", "sft.jsonl", "--probes", "probes.jsonl", "--batch-size", 1)
COMMANDS = {
    "generate": ("generate", "--prompt", "hi", "--max-new-tokens", 2),
    "chat": ("chat", "--max-new-tokens", 2),
    "score": ("score", "texts.jsonl"),
    "report": ("report", "--prompt", "hi", "--max-new-tokens", 2, "--out", "page.html"),
    "track": ("dynamics", "track", "--out", "run", "--steps", 1, *DYNAMICS),
    "decompose": ("dynamics", "decompose", *DYNAMICS),
    "tokens": ("dynamics", "tokens", "run", "--out", "tokens.jsonl"),
}
TRIO = ("generate", "chat", "score", "report")


def named(command, folder):
    if command in TRIO:
        return ("--large", SMALL, "--tuned", folder, "--base", SMALL)
    return ("--model", folder)


QUIET = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("generate", "pickle")]  # nothing of them is asked for


@pytest.mark.parametrize("kind", ["configuration", "tokenizer", *QUIET])
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_runs_unasked(eft, command, kind, tmp_path):
    mark = tmp_path / "mark"
    folder = stranger(tmp_path / "own", SMALL, kind, mark)
    code, out, err = eft(*COMMANDS[command], *named(command, folder), stdin="y\n" * 20)
    assert not mark.exists()
    assert not (tmp_path / "page.html").exists() or kind == "generate"
    needs = ("tokenizer",) if command == "tokens" else ("configuration", "tokenizer")
    if kind in needs:
        assert (code, out) == (2, "")
        assert err.splitlines()[-1].endswith(FLAG)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_trusted_runs(eft, command, tmp_path):
    """The other test could not fail otherwise."""
    mark = tmp_path / "mark"
    folder = stranger(tmp_path / "own", SMALL, "tokenizer", mark)
    eft(*COMMANDS[command], *named(command, folder), "--trust-remote-code", stdin="")
    assert mark.exists()


def test_the_demonstration_runs_no_code_either(eft, tmp_path):
    mark = tmp_path / "mark"
    trio = tmp_path / "trio"
    stranger(trio / "large-base", SMALL, "configuration", mark)
    for name in ("small-tuned", "small-base", "large-tuned"):
        (trio / name).symlink_to(model_path(name))
    (trio / "training.json").write_text(json.dumps({"seed": 0, "recipe": {"people": 10, "towns": 5}}))
    code, out, err = eft("demo", "--models", trio, "--questions", 1, stdin="y\n" * 20)
    assert (code, out) == (2, "")
    assert err.startswith("eft: --models: cannot read ")
    assert not mark.exists()
