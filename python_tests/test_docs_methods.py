"""Every example of docs/methods.md runs."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eft_ext import methods
from eft_ext.cli import main
from eft_ext.demo import model_path
from python_tests.slow import slowly

PAGE = (Path(__file__).parent.parent / "docs" / "methods.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.S)
COMMANDS = [line for kind, text in BLOCKS if not kind for line in text.splitlines()]

pytestmark = pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models are missing")


@pytest.mark.slow
def test_python():
    """In order, in one namespace; logits are random, models the embedded ones."""
    make = torch.Generator().manual_seed(0)
    names = "large small tuned base polite terse expert amateur reference aligned"
    there = {name: torch.randn(2, 50, generator=make) for name in names.split()}
    folders = {"LARGE": "large-base", "POLITE": "small-tuned", "TALKATIVE": "small-talkative", "BASE": "small-base"}
    for name, folder in folders.items():
        there[name] = str(model_path(folder))
        there[f"{name.lower()}_model"] = AutoModelForCausalLM.from_pretrained(model_path(folder)).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_path("small-tuned"))
    there["inputs"] = tokenizer("Question: Where was Fikim Thetrond born?\nAnswer:", return_tensors="pt")
    blocks = [text for kind, text in BLOCKS if kind == "python"]
    assert len(blocks) >= 14
    for block in blocks:
        exec(compile(block, "docs/methods.md", "exec"), there)
        tokens = there.get("tokens")
        assert tokens is None or (tokens.shape == (2,) and bool((tokens >= 0).all()))
    assert len(there["texts"]) == 1
    assert there["ids"].shape[0] == 1


MORE = slowly(*COMMANDS[1:])


@pytest.mark.parametrize("command", [*COMMANDS[:1], *MORE])
def test_commands(command, capsys):
    threads = torch.get_num_threads()
    try:
        assert main(shlex.split(command.removeprefix("eft "))) == 0
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr()
    assert out.out.strip()
    assert out.err == ("greedy, at most 128 tokens\n" if command.startswith("eft generate ") else "")


def test_every_method_has_its_page_and_its_row():
    for name in methods.__all__:
        if name != "Named":
            assert f"\n## {name}\n" in PAGE
            assert f"](#{name.lower()}) |" in PAGE
