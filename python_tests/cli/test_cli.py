"""The command line as a user meets it: output, exit codes, one line on wrong input."""

import json
import os
import subprocess
import sys

import pytest
import torch

import eft_ext
from eft_ext.ops.backends import registry as choice
from eft_ext.ops.backends.registry import Backend


def test_version_and_help(eft):
    assert eft("--version")[:2] == (0, f"eft_ext {eft_ext.__version__}\n")
    code, out, err = eft()
    assert "generate" in out
    assert err == ""
    for command in ("demo", "generate", "chat", "score", "report", "bench", "env"):
        code, out, _ = eft(command, "--help")
        assert code == 0
        assert f"eft {command}" in out, "an example"


@pytest.mark.slow
def test_as_a_module():
    run = subprocess.run([sys.executable, "-m", "eft_ext", "nope"], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", "eft: No such command 'nope'.\n")


def test_bench(eft):
    asked = ("bench", "--vocab", 500, "--seconds", 0.001)
    code, out, err = eft(*asked, "--rows", 1, "--rows", 3, "--dtype", "float32", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [r["rows"] for r in found["results"]] == [1, 1, 1, 3, 3, 3]
    assert all(r[name] > 0 for r in found["results"] for name in ("fused_us", "chain_us", "read_us"))
    code, out, _ = eft(*asked)
    assert code == 0
    assert "top-p .9" in out
    for wrong, message in (
        (("--rows", 0), "--rows: expected a number at least 1, got 0"),
        (("--vocab", -3), "--vocab: expected a number at least 1, got -3"),
        (("--seconds", 0), "--seconds: expected a positive number, got 0.0"),
        (("--device", "tpu"), "--device: expected cpu or cuda, got tpu"),
        (("--backend", "x"), "--backend: expected 'auto' or one of"),
    ):
        code, out, err = eft(*asked, *wrong)
        assert (code, out) == (2, "")
        assert err.startswith(f"eft: {message}")


def test_bench_on_a_backend_that_is_not_usable(eft, monkeypatch):
    monkeypatch.setitem(choice._PROBES, "cuda", lambda: Backend("cuda", False, reason="not now", remedy="wait"))
    monkeypatch.setattr(choice, "_usable", {})
    said = "eft: --backend: 'cuda' is not usable here: not now; to enable it: wait\n"
    assert eft("bench", "--backend", "cuda") == (2, "", said)


def test_env(eft):
    code, out, _ = eft("env", "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found["backends"]) == set(eft_ext.backends())
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    code, out, _ = eft("env")
    assert code == 0
    for name, backend in found["backends"].items():
        assert name in out
        assert backend["available"] or backend["reason"]


def test_demo_of_a_folder_without_models(eft, tmp_path):
    said = (
        f"eft: --models: expected a folder made by python -m eft_ext.demo.train, found no training.json in {tmp_path}\n"
    )
    assert eft("demo", "--models", tmp_path)[::2] == (2, said)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["env"], ["env", "--json"]], ids=" ".join)
def test_a_reader_that_leaves_is_no_error(arguments):
    """The pipe is closed before anything is printed, as `head` does."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "eft_ext", *arguments]
    try:
        run = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(writing)
    assert (run.returncode, run.stderr) == (0, "")


def test_demo_of_a_folder_that_is_not_there(eft):
    assert eft("demo", "--models", "./nowhere")[::2] == (2, "eft: --models: no such folder: nowhere\n")
