"""Every page's Python blocks and `eft` commands run, the shipped models in the place of those from the hub."""

import importlib.util
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import eft_ext
from eft_ext import methods
from eft_ext.cli import main
from eft_ext.demo import model_path
from eft_ext.dynamics import ProbeSet
from python_tests.docs.found import CHECKS
from python_tests.docs.pages import BLOCKS, COMMAND, PAGES, TUTORIALS, with_local_models
from python_tests.helpers.one_thread import one_thread as one_thread
from python_tests.helpers.slow_params import slowly_but

ALL = [block for blocks in BLOCKS.values() for block in blocks]
PYTHON = [page for page, blocks in BLOCKS.items() if any(kind == "python" for kind, _ in blocks)]
COMMANDS = list(
    dict.fromkeys(b for page in PAGES if page not in TUTORIALS for _, b in BLOCKS[page] if COMMAND.search(b))
)
QUICK = tuple(block for block in COMMANDS if block.startswith("eft generate"))[:1]
FOLDERS = {"LARGE": "large-base", "POLITE": "small-tuned", "TALKATIVE": "small-talkative", "BASE": "small-base"}
WHERE = "Question: Where was Fikim Thetrond born?\nAnswer:"
# They use what their `eft pack` makes.
PACKED = ("README.md", "docs/guides/checkpoint.md", "docs/guides/tools.md", "docs/guides/vllm.md")
# It asks a server: python_tests/serving/vllm/test_vllm_serve.py runs it.
SERVED = ("docs/guides/serve.md",)
NEEDED = {"docs/guides/structured-output.md": ("xgrammar", "outlines"), "docs/guides/vllm.md": ("vllm",)}

pytestmark = pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models are missing")


def given() -> dict[str, Any]:
    """Names that the pages take for granted: logits [2, 500], models and their folders, prompts."""
    make = torch.Generator().manual_seed(0)
    names = "large small tuned base polite terse expert amateur reference aligned"
    there: dict[str, Any] = {name: torch.randn(2, 500, generator=make) for name in names.split()}
    for name, folder in FOLDERS.items():
        there[name] = str(model_path(folder))
        there[f"{name.lower()}_model"] = AutoModelForCausalLM.from_pretrained(model_path(folder)).eval()
    there["inputs"] = AutoTokenizer.from_pretrained(there["POLITE"])(WHERE, return_tensors="pt")
    there |= {"eft_ext": eft_ext, "torch": torch, "ids": there["inputs"].input_ids, "prompts": ["Who are you?"] * 3}
    return there | {"responses": [" I am glad to help."] * 3}


def run(page: str) -> dict[str, Any]:
    """Executes the page's blocks in order in one namespace, and returns it."""
    there = given()
    models = {"large": there["large_model"], "tuned": there["polite_model"], "base": there["base_model"]}
    logits = {name: there[name] for name in models}
    for kind, block in BLOCKS[page]:
        if kind != "python" or ("import trl" in block and not importlib.util.find_spec("trl")):
            continue
        there |= models if "large.generate" in block else logits
        exec(compile(with_local_models(block), page, "exec"), there)
        tokens = there.get("tokens")
        assert not isinstance(tokens, torch.Tensor) or (tokens.shape == (2,) and bool((tokens >= 0).all()))
    return there


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize("page", slowly_but(("README.md",), [p for p in PYTHON if p not in (*TUTORIALS, *SERVED)]))
def test_python(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for package in NEEDED.get(page, ()):
        pytest.importorskip(package)
    if page in PACKED:
        assert main(["pack", "-o", "trio"]) == 0
    there = run(page)
    if page in CHECKS:
        CHECKS[page](there, capsys.readouterr().out)


@pytest.mark.parametrize("block", slowly_but(QUICK, COMMANDS), ids=lambda block: " ".join(block.split()[:4]))
def test_commands(block, tmp_path, monkeypatch, capsys):
    """Those of a block in order, in one folder; answers.jsonl is there for docs/guides/score.md."""
    monkeypatch.chdir(tmp_path)
    Path("answers.jsonl").write_text(json.dumps({"prompt": WHERE, "response": " I am glad to help."}) + "\n")
    for line in block.splitlines():
        capsys.readouterr()
        command = shlex.split(line, comments=True)
        if command[1] == "serve":  # planned only, and by whichever engine's rules the page is about
            if not Path("trio").exists():
                assert main(["pack", "-o", "trio", "--weights", "link"]) == 0
            command[2:2] = ["--dry-run", "--engine", "vllm"]
        assert main(command[1:]) == 0, line
        out = capsys.readouterr()
        if command[1] == "generate":
            assert out.out.strip()
            drafts = r"(\d+ of \d+ drafts stand, \S+ tokens a round\n)?" if "--speculate" in command else ""
            assert re.search(rf"^greedy, at most 128 tokens\n{drafts}\Z", out.err, re.M)
        for option, file in itertools.pairwise(command):
            assert option not in ("--out", "--plot") or Path(file).exists()


def test_blocks_are_found():
    """A new page's run by themselves; one of a language, or a fence, that is not known here would not."""
    assert {kind for kind, _ in ALL} == {"", "python", "json", "c"}  # c: docs/reference/c.md shows eft.h
    fences = [line for text in PAGES.values() for line in text.splitlines() if line.lstrip().startswith(("```", "~~~"))]
    assert len(fences) == 2 * len(ALL)
    guides = {f"docs/guides/{name}.md" for name in ("decoding", "tools")}
    assert {*CHECKS, *PACKED, *NEEDED, *SERVED, *guides} <= set(PYTHON)
    lines = {line for text in PAGES.values() for line in text.splitlines() if line.startswith("eft ")}
    assert lines == {line for _, block in ALL if COMMAND.search(block) for line in block.splitlines()}


def test_json():
    """Rows of probes are read as they stand."""
    rows = [json.loads(line) for kind, block in ALL if kind == "json" for line in block.splitlines()]
    assert ProbeSet.from_records(rows).types == ("chosen", "rejected")


def test_every_method_has_its_page_and_its_row():
    page = PAGES["docs/guides/methods.md"]
    for name in methods.__all__:
        if name != "MixingMethod":
            assert re.search(rf"^## {name}$", page, re.M)
            assert f"](#{name.lower()}) |" in page
