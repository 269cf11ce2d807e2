"""The commands that start vLLM, where vLLM need not be installed: their tables, their processes, their reference."""

import argparse
import importlib.util
import sys
from pathlib import Path

import bench_vllm
import load_server
import pytest
import vllm_parity
from engines import parity, processes, speculation

from eft_ext.demo import checkpoint_path, model_path
from python_tests.helpers.naive import greedy, load, up_scaled

COMMANDS = (bench_vllm, load_server, vllm_parity)


@pytest.mark.parametrize("command", COMMANDS, ids=[command.__name__ for command in COMMANDS])
def test_without_vllm_one_line_says_what_to_install(command, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))
    monkeypatch.setattr(sys, "argv", [command.__name__])
    assert command.main() == 2
    assert capsys.readouterr().err.startswith("vllm: expected to be installed; run pip install vllm==")


def test_a_failed_case_is_a_row_and_the_exit_status(monkeypatch, capsys):
    ended = {"betas": ({"differ": 0, "cached": 5}, ""), "logprobs": ({"largest_difference": 2e-5}, "")}
    monkeypatch.setattr(processes, "run", lambda name, *_: ended.get(name, (None, "exit code 1: RuntimeError: why")))
    monkeypatch.setattr(processes, "missing", lambda: "")
    monkeypatch.setattr(sys, "argv", ["vllm_parity", "--only", "betas", "logprobs"])
    assert vllm_parity.main() == 0
    assert "2e-05 at most" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["vllm_parity", "--only", "betas", "many"])
    assert vllm_parity.main() == 1
    assert "RuntimeError: why" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "result", "fault"),
    [
        ("Path(given.out).write_text(given.part)", 7, ""),
        ("print('ValueError: why'); sys.exit(3)", None, "exit code 3: ValueError: why"),
        ("pass", None, "no result: "),
        ("import time; time.sleep(60)", None, "killed after 1 s: "),
    ],
    ids=["done", "failed", "silent", "too long"],
)
def test_a_part_runs_in_a_process_of_its_own(tmp_path, monkeypatch, code, result, fault):
    script = tmp_path / "script.py"
    lines = ["import argparse, os, sys", "from pathlib import Path", "parser = argparse.ArgumentParser()"]
    lines += [f"parser.add_argument('--{name}')" for name in ("part", "out", "checkpoint", "seconds")]
    lines += ["parser.add_argument('--v2', action='store_true')", "given = parser.parse_args()"]
    lines += ["assert given.checkpoint == '/a' and given.v2 and os.environ['VLLM_USE_V2_MODEL_RUNNER'] == '1'", code]
    script.write_text("\n".join(lines))
    monkeypatch.setattr(sys, "argv", [str(script)])
    seconds = 1 if fault.startswith("killed") else 30
    args = argparse.Namespace(part=None, out=None, json=None, checkpoint=Path("/a"), seconds=seconds, v2=True)
    found, came = processes.run("7", args, v2=True)
    if seconds == 1:  # a busy machine may not have begun the script by then: it has said nothing
        came = came.removesuffix("KeyboardInterrupt")
    assert (found, came) == (result, fault)


@pytest.mark.slow  # transformers and three models
def test_one_pass_finds_what_the_naive_loop_gives():
    names = ("large-base", "small-tuned", "small-base")
    models, ids, mixture = load(model_path(names[0]).parent, names), [5, 17, 80, 3], up_scaled(1.5)
    text = greedy(models, mixture, ids, 6, ())
    assert parity.follows(models, mixture, ids, text, 6, [])
    assert not parity.follows(models, mixture, ids, [*text[:3], (text[3] + 1) % 1000, *text[4:]], 6, [])
    assert not parity.follows(models, mixture, ids, text[:4], 6, [])  # ended too early
    assert parity.follows(models, mixture, ids, text[:4], 6, [text[3]]) == (text[3] not in text[:3])
    assert not parity.follows(models, mixture, ids, text, 6, [text[2]])  # went on after the end


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_requests_fit_the_engine(v2):
    words = type("Tokenizer", (), {"__call__": lambda _, text: argparse.Namespace(input_ids=list(text.encode()))})()
    for case in parity.cases(checkpoint_path(), v2).values():
        asked = parity.requests(case, words)
        assert len(asked) == case.count
        assert {beta for _, beta, _ in asked} == set(case.betas)
        assert all(len(ids) > 0 and len(ids) + count <= 256 for ids, _, count in asked)


def test_tables_of_throughput_and_speculation():
    modes = {"tokens": 100, "cpu_s": 2.0, "speculation": {"drafts": 10, "drafted": 30, "accepted": 15}}
    shares = {"forward": 6.0, "heads": 1.0, "combine": 1.0, "whole": 10.0}
    alone = {mode: {**modes, "shares": shares} for mode in ("greedy", "sampled")}
    first, _, parts = bench_vllm.show(dict.fromkeys(("trio", "large", "tuned", "base"), alone), "cpu_s")
    assert list(first.columns[5].cells) == ["3.00x"] * 4 + ["1.00x"]
    assert [next(iter(column.cells)) for column in parts.columns[1:]] == ["60.0%", "10.0%", "10.0%", "20.0%"]
    rows = {
        f"k={k}": {str(beta): {mode: {**modes, "cpu_s": 2.0 - k} for mode in alone} for beta in speculation.BETAS}
        for k in (0, 1)
    }
    table = bench_vllm.show_speculation(rows, "cpu_s")[0]
    assert list(table.columns[3].cells) == ["1.00x", "2.00x"] * 3
    assert list(table.columns[4].cells) == ["1.50"] * 6
