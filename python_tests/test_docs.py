"""Every page's Python blocks and `eft` commands run, the embedded models in the place of those from the hub."""

import importlib.util
import itertools
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import eft_ext
from eft_ext import methods
from eft_ext.cli import main
from eft_ext.decoding import TokenSource
from eft_ext.demo import model_path
from eft_ext.dynamics import ProbeSet, Recording
from python_tests.helpers.one_thread import one_thread as one_thread
from python_tests.helpers.slow_params import slowly_but

ROOT = Path(__file__).parent.parent
FILES = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
PAGES = {str(file.relative_to(ROOT)): file.read_text() for file in FILES}
BLOCKS = {page: re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M) for page, text in PAGES.items()}
TUTORIALS = [page for page in PAGES if page.startswith("docs/tutorials/")]
PYTHON = [page for page, blocks in BLOCKS.items() if any(kind == "python" for kind, _ in blocks)]
ALL = [block for blocks in BLOCKS.values() for block in blocks]
COMMAND = re.compile(r"^eft ", re.M)
COMMANDS = list(
    dict.fromkeys(b for page in PAGES if page not in TUTORIALS for _, b in BLOCKS[page] if COMMAND.search(b))
)
QUICK = tuple(block for block in COMMANDS if block.startswith("eft generate"))[:1]
FOLDERS = {"LARGE": "large-base", "POLITE": "small-tuned", "TALKATIVE": "small-talkative", "BASE": "small-base"}
HERE = {
    '"Qwen/Qwen2.5-7B"': "LARGE",
    '"Qwen/Qwen2.5-0.5B-Instruct"': "POLITE",
    '"Qwen/Qwen2.5-0.5B"': "BASE",
    "large=...": "large=LARGE",
    '"polite": ...': '"polite": POLITE',
    '"talkative": ...': '"talkative": TALKATIVE',
    "base=...": "base=BASE",
}
HUB = {f"Qwen/Qwen2.5-{size}": FOLDERS[HERE[f'"Qwen/Qwen2.5-{size}"']] for size in ("7B", "0.5B", "0.5B-Instruct")}
WHERE = "Question: Where was Fikim Thetrond born?\nAnswer:"

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


def packed(there: dict[str, Any]) -> None:
    """The checkpoint that the page's first command makes."""
    assert main(["pack", "-o", "trio"]) == 0


MORE: dict[str, Callable[[dict[str, Any]], None]] = {
    "README.md": packed,
    "docs/guides/checkpoint.md": packed,
    "docs/guides/tools.md": packed,
}

NEEDED = {"docs/guides/structured-output.md": ("xgrammar", "outlines")}


def run(page: str) -> dict[str, Any]:
    """Executes the page's blocks in order in one namespace, and returns it."""
    there = given()
    MORE.get(page, lambda there: None)(there)
    models = {"large": there["large_model"], "tuned": there["polite_model"], "base": there["base_model"]}
    logits = {name: there[name] for name in models}
    for kind, block in BLOCKS[page]:
        if kind != "python" or ("import trl" in block and not importlib.util.find_spec("trl")):
            continue
        for name, local in HERE.items():
            block = block.replace(name, local)
        there |= models if "large.generate" in block else logits
        exec(compile(block, page, "exec"), there)
        tokens = there.get("tokens")
        assert not isinstance(tokens, torch.Tensor) or (tokens.shape == (2,) and bool((tokens >= 0).all()))
    return there


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize("page", slowly_but(("README.md",), [page for page in PYTHON if page not in TUTORIALS]))
def test_python(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for package in NEEDED.get(page, ()):
        pytest.importorskip(package)
    there = run(page)
    if page == "README.md":
        assert there["token"].shape == (2,)
        assert len(there["answers"]) == 3
        assert "I am glad to help." in capsys.readouterr().out
    if page == "docs/guides/dynamics.md":
        assert there["parts"].change.shape == there["observed"].targets.shape
        assert there["run"].steps.tolist() == [0, 20, 40]
        assert np.isfinite(there["run"].curve("cross_prompt")).all()
        assert there["whole"].delta.abs().sum() > 0
        if importlib.util.find_spec("trl"):
            assert Recording("run-trl").steps.tolist() == [0, 20, 40]
    if page == "docs/guides/checkpoint.md":
        three = eft_ext.EmulatedModel.from_pretrained(there["LARGE"], there["POLITE"], there["BASE"], quiet=True)
        assert torch.equal(there["answer"], three.generate(**there["asked"], do_sample=False, max_new_tokens=30))
        assert there["beams"].shape[0] == 1
        assert there["logits"].shape[-1] == 1280
    if page == "docs/guides/report.md":
        assert all("<title>" in Path(name).read_text() for name in ("report.html", "own.html"))
        assert there["page"].count("Lerand") > 1
    if page == "docs/guides/score.md":
        own = [x.log_softmax(-1).gather(-1, there["ids"][:, 1:, None]) for x in there["logits"]]
        torch.testing.assert_close(there["found"].logprobs[..., :3], torch.cat(own, -1), atol=1e-5, rtol=1e-5)
        assert there["scores"].logprobs.shape == (2, 4)
    if page == "docs/guides/speculation.md":
        assert there["output"].speculation.accepted == (there["output"].token_sources == TokenSource.accepted).sum() > 0
    if page == "docs/guides/structured-output.md":
        assert set(json.loads(there["texts"][0])) == {"born", "town"}
        assert {there["texts"][1], there["town"]} <= {" Lerand", " Tonin"}
        assert there["model"].tokenizer.decode(there["answer"], skip_special_tokens=True)[-1] == "}"
        assert torch.equal(there["out"], there["same"])
        assert len(there["rows"]) == 2
    if page == "docs/guides/streaming.md":
        assert "." in there["seen"]
        assert not there["thread"].is_alive()
        assert [len(row) for row in there["columns"].columns[1:]] == [2] * 8
        assert capsys.readouterr().out.count("The birthplace is Lerand.") == 4
    if page == "docs/guides/lora.md":
        assert there["model"].members[1].model is there["model"].members[2].model
    if page == "docs/guides/many-gpus.md":
        assert len(there["rows"]) == 3
    if page == "docs/guides/methods.md":
        assert len(there["texts"]) == 1
        assert there["ids"].shape[0] == 1


@pytest.mark.parametrize("block", slowly_but(QUICK, COMMANDS), ids=lambda block: " ".join(block.split()[:4]))
def test_commands(block, tmp_path, monkeypatch, capsys):
    """Those of a block in order, in one folder; answers.jsonl is there for docs/guides/score.md."""
    monkeypatch.chdir(tmp_path)
    Path("answers.jsonl").write_text(json.dumps({"prompt": WHERE, "response": " I am glad to help."}) + "\n")
    for line in block.splitlines():
        capsys.readouterr()
        command = shlex.split(line, comments=True)
        assert main(command[1:]) == 0, line
        out = capsys.readouterr()
        if command[1] == "generate":
            assert out.out.strip()
            assert out.err.endswith("greedy, at most 128 tokens\n")
        for option, file in itertools.pairwise(command):
            assert option not in ("--out", "--plot") or Path(file).exists()


def stripped(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS)
def test_tutorials(page, tmp_path, monkeypatch, capsys):
    """A page's Python and commands in order, in one folder, with no names given but what the page defines.

    A plain fence with nothing but a blank line between it and the block before is all that the block prints.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    paths = {name: str(model_path(folder)) for name, folder in HUB.items()}
    there: dict[str, Any] = {"__name__": "__main__"}
    printed, outputs = None, 0
    for between, kind, block in re.findall(r"(.*?)^```(\w*)\n(.*?)^```", PAGES[page], re.S | re.M):
        if kind == "python":
            for name, path in paths.items():
                block = block.replace(f'"{name}"', repr(path))
            exec(compile(block, page, "exec"), there)
            printed = capsys.readouterr().out
        elif COMMAND.search(block):
            for line in block.splitlines():
                command = shlex.split(line, comments=True)
                assert main([paths.get(word, word) for word in command[1:]]) == 0, line
            printed = capsys.readouterr().out
        elif printed is not None and not between.strip():
            assert stripped(block) == stripped(printed)
            outputs += 1
        else:
            printed = None
    assert outputs


def test_blocks_are_found():
    """A new page's run by themselves; one of a language, or a fence, that is not known here would not."""
    assert {kind for kind, _ in ALL} == {"", "python", "json", "c"}  # c: docs/reference/c.md shows eft.h
    fences = [line for text in PAGES.values() for line in text.splitlines() if line.lstrip().startswith(("```", "~~~"))]
    assert len(fences) == 2 * len(ALL)
    names = ("checkpoint", "decoding", "dynamics", "lora", "many-gpus", "methods", "report", "score", "speculation")
    names = (*names, "streaming", "structured-output", "tools")
    assert {"README.md", *(f"docs/guides/{name}.md" for name in names)} <= set(PYTHON)
    lines = {line for text in PAGES.values() for line in text.splitlines() if line.startswith("eft ")}
    assert lines == {line for _, block in ALL if COMMAND.search(block) for line in block.splitlines()}
    names = ("first-mixture", "drop-in", "two-behaviours", "score-and-report", "dynamics")
    assert {f"docs/tutorials/{name}.md" for name in names} <= set(TUTORIALS)


def test_json():
    """Rows of probes are read as they stand."""
    rows = [json.loads(line) for kind, block in ALL if kind == "json" for line in block.splitlines()]
    assert ProbeSet.from_records(rows).types == ("chosen", "rejected")


def test_every_method_has_its_page_and_its_row():
    for name in methods.__all__:
        if name != "MixingMethod":
            assert f"\n## {name}\n" in PAGES["docs/guides/methods.md"]
            assert f"](#{name.lower()}) |" in PAGES["docs/guides/methods.md"]
