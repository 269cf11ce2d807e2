"""The ledger of docs/gpu.md, from a made-up run: none of the figures here was ever measured."""

import json
import sys

import gpu_ledger
import pytest

PAGE = f"# What has run\n\n{gpu_ledger.HEAD}{gpu_ledger.NOTHING}\n## The one command\n"


def stage(name, commands, tests=None, **others):
    defaults = {"stage": name, "result": "passed", "why": "", "seconds": 1.0, "figure": "", "commands": commands}
    return {**defaults, "tests": tests or {}, **others}


def made_up():
    no_others = {"skipped": 0, "unfinished": []}
    counts = {"passed": 40, "failed": ["python_tests/ops/test_cuda_gpu.py::test_small[a|b]"], **no_others}
    return {
        "rehearsed": False,
        "machine": {"gpu": "NVIDIA MADE-UP 80GB", "commit": "1a2b3c4"},
        "stages": [
            stage("device", ["make gpu-build", "python benchmarks/gpu_device.py"], figure="a device"),
            stage("tests", ["python -m pytest -k 'a or b' x.py"], {"CUDA step": counts}, why="killed after 70 s"),
            stage("triton", ["python benchmarks/gpu_step.py", "python -m pytest y.py"],
                  {"Triton scoring": {"passed": 3, "failed": [], **no_others}}, figure="B=1: 9.9 us"),
            stage("step", ["python benchmarks/gpu_step.py -x"], result="failed", why="crashed: SIGSEGV"),
            stage("decode", [], result="left out", why="the smallest test of loop did not pass"),
        ],
    }  # fmt: skip


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """Runs `gpu_ledger.py` on a page and a folder of its own: returns exit code, page, results by name."""
    page, results, out = tmp_path / "gpu.md", tmp_path / "results", tmp_path / "out"
    page.write_text(PAGE)
    out.mkdir()
    monkeypatch.setattr(gpu_ledger, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_ledger, "PAGE", page)
    monkeypatch.setattr(gpu_ledger, "RESULTS", results)

    def ledger(summary, *words, figures=()):
        (out / "summary.json").write_text(summary if isinstance(summary, str) else json.dumps(summary))
        for name in figures:
            (out / f"{name}.json").write_text('{"x": 1}')
        monkeypatch.setattr(sys, "argv", ["gpu_ledger.py", str(out), *words])
        code = gpu_ledger.main()
        made = {path.name: json.loads(path.read_text()) for path in results.glob("*")} if results.exists() else {}
        return code, page.read_text(), made

    return ledger


def test_a_line_for_each_kernel_and_for_what_was_timed(ledger):
    code, page, made = ledger(made_up(), figures=("device", "triton", "decode"))  # decode's is of another run
    assert code == 0
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        "| CUDA step, tests | NVIDIA MADE-UP 80GB | 1a2b3c4 | `python -m pytest -k 'a or b' x.py` | "
        "40 passed, 1 failed, first test_small[a\\|b]; killed after 70 s |",
        "| Triton scoring, tests | NVIDIA MADE-UP 80GB | 1a2b3c4 | `python -m pytest y.py` | 3 passed |",
        "| Triton step, times | NVIDIA MADE-UP 80GB | 1a2b3c4 | `python benchmarks/gpu_step.py` | B=1: 9.9 us |",
        "| CUDA step, times | NVIDIA MADE-UP 80GB | 1a2b3c4 | `python benchmarks/gpu_step.py -x` | crashed: SIGSEGV |",
    ]
    assert page.endswith("\n## The one command\n")
    assert made == {
        "gpu-made-up-80gb-device.json": {"commit": "1a2b3c4", "x": 1},
        "gpu-made-up-80gb-triton.json": {"commit": "1a2b3c4", "x": 1},
    }


def test_a_second_run_comes_behind_the_first_and_nothing_twice(ledger):
    _, first, _ = ledger(made_up())
    assert ledger(made_up())[1] == first
    _, page, _ = ledger(made_up(), "--commit", "5d6e7f8")
    assert page.index("1a2b3c4") < page.index("5d6e7f8")
    assert page.count("| NVIDIA") == 8


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rehearsed": True}, "was rehearsed on a stand-in"),
        ({"rehearsed": None}, "was rehearsed on a stand-in"),
        ({"machine": None}, "no stage has seen a device"),
        ({"machine": {"gpu": "X", "commit": None}}, "--commit: expected the commit of the sources that ran"),
        ({"machine": {"gpu": "X", "commit": "1a2b3c4-dirty"}}, "got 1a2b3c4-dirty"),
        ({"machine": {"gpu": "X", "commit": "1", "newer_than_libeft": ["csrc/x.cu"]}}, "older than csrc/x.cu"),
        ("{}", "expected a summary of gpu_all.py"),
        ("half a fi", "expected a summary of gpu_all.py"),
    ],
)
def test_what_says_nothing_about_a_gpu_is_refused(ledger, change, why, capsys):
    code, page, made = ledger(change if isinstance(change, str) else {**made_up(), **change})
    assert (code, page, made) == (2, PAGE, {})
    said = capsys.readouterr().err
    assert said.startswith("gpu_ledger: ")
    assert why in said
    assert said.count("\n") == 1


def test_the_page_of_the_project_has_the_ledger():
    page = (gpu_ledger.PAGE).read_text()
    assert "| a line |" in gpu_ledger.add_lines(page, ["| a line |\n"])
    with pytest.raises(gpu_ledger.UnusableRun, match="expected the ledger's head"):
        gpu_ledger.add_lines("# Another page\n", [])
