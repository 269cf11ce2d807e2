"""The one command for a GPU, rehearsed from a bare copy of the tree by a Python that has not installed the package."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gpu import tests as gpu_tests
from gpu.stages import STAGES

from python_tests.helpers.host_cuda import built

ROOT = Path(__file__).parents[2]
NAMES = [stage.name for stage in STAGES]


@pytest.fixture
def rehearse(bare, uninstalled, tmp_path):
    """Runs a rehearsal: returns its stages by name, and its output."""

    def rehearse(*words, code):
        host = built("launch/libeft.so", "hostlaunch").parents[1]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV", "MAKE"))}
        environment |= {"BIN": str(uninstalled), "EFT_HOSTCUDA": str(host)}
        environment.pop("PYTHONPATH", None)
        out = tmp_path / "out"
        command = [sys.executable, "benchmarks/gpu_all.py", "--rehearse", "--out", out, *words]
        done = subprocess.run(command, cwd=bare, env=environment, capture_output=True, text=True, check=False)
        log = (out / "log.txt").read_text() if (out / "log.txt").exists() else ""
        assert done.returncode == code, done.stdout + done.stderr + log[-6000:]
        assert done.stderr == ""
        found = json.loads((out / "summary.json").read_text())
        assert found["rehearsed"] is True
        return {stage["stage"]: stage for stage in found["stages"]}, done.stdout

    return rehearse


@pytest.mark.slow
def test_every_stage_is_rehearsed(rehearse, tmp_path):
    """The time limit is longer than on a GPU: this machine may be busy."""
    pytest.importorskip("triton")
    stages, printed = rehearse("--seconds", "1800", code=0)
    assert list(stages) == NAMES
    assert {stage["result"] for stage in stages.values()} == {"passed"}
    assert "REHEARSED on a stand-in: no figure here was measured on a GPU" in printed
    tested = {**stages["smallest"]["tests"], **stages["tests"]["tests"], **stages["triton"]["tests"]}
    assert set(tested) >= {t.name for t in (*gpu_tests.CUDA.values(), gpu_tests.TRITON[0])}
    assert all(counts["passed"] and not counts["failed"] for counts in tested.values())
    files = list((tmp_path / "out").iterdir())
    assert len(files) <= 8
    assert all(path.stat().st_size < 16 * 2**20 for path in files)
    assert str(tmp_path) not in json.dumps(stages), "a path of the machine"
    words = [sys.executable, ROOT / "benchmarks/gpu_ledger.py", tmp_path / "out", "--commit", "made-up"]
    refused = subprocess.run(words, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert re.fullmatch("gpu_ledger: .*summary.json: was rehearsed on a stand-in, .*\n", refused.stderr)


@pytest.mark.slow
def test_planted_failures_are_reported_and_stop_nobody(rehearse, bare, tmp_path):
    """A stage that crashes, one that hangs, one that prints nothing; and one after them that is well."""
    benchmarks, child = bare / "benchmarks", tmp_path / "child"
    (benchmarks / "gpu_step.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    (benchmarks / "gpu_ncu.py").write_text(f"""if True:
        import pathlib, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        pathlib.Path({str(child)!r}).write_text(str(child.pid))
        time.sleep(3600)
    """)
    (benchmarks / "bench_decode.py").write_text("")
    (benchmarks / "gpu_sanitize.py").write_text("print('memcheck: exit code 0, all is well')\n")
    stages, printed = rehearse("--seconds", "105", "--only", "step", "ncu", "decode", "sanitize", code=1)
    said = {name: (stage["result"], stage["why"]) for name, stage in stages.items()}
    assert said["step"] == ("failed", "crashed: SIGSEGV")
    assert re.fullmatch(r"killed after \d\d s", said["ncu"][1])
    assert said["decode"] == ("failed", "left no decode.json")
    assert said["sanitize"] == ("passed", "")
    for name, (result, why) in said.items():
        assert re.search(rf"^{name} .* {result} .*{why}", printed, re.MULTILINE)
    state = Path(f"/proc/{child.read_text()}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z", "its child process goes on"


@pytest.mark.slow
def test_a_smallest_test_that_fails(rehearse, bare):
    """Memcheck of that test comes next, and what needs its kernel is left out."""
    fine = "import pytest\n\n@pytest.mark.gpu\ndef test_small_conservative():\n    pass\n"
    for tested in gpu_tests.CUDA.values():
        (bare / tested.file).write_text(fine)
    failing = fine.replace("    pass", "    raise RuntimeError('an illegal memory access')")
    (bare / gpu_tests.CUDA["step"].file).write_text(failing)
    (bare / gpu_tests.CUDA["loop"].file).write_text(fine.replace("small_conservative", "llama_and_greedy"))
    wanted = ("smallest", "step", "decode")
    stages, _ = rehearse("--seconds", "400", "--only", *wanted, code=1)
    assert list(stages) == ["smallest", "memcheck", "step", "decode"]
    assert stages["smallest"]["result"] == "failed"
    assert "step: 0 passed, 1 failed" in stages["smallest"]["figure"]
    assert "an illegal memory access" in stages["smallest"]["figure"]
    assert f"{gpu_tests.CUDA['step'].file}::test_small_conservative" in stages["memcheck"]["commands"][0]
    for name in ("step", "decode"):
        assert stages[name]["result"] == "left out"
        assert stages[name]["why"] == "the smallest test of step did not pass"


def test_stages_fit_their_time():
    """240 seconds keep the first five; 480 all."""
    assert NAMES[:5] == ["device", "smallest", "step", "tests", "peers"]
    assert sum(stage.seconds for stage in STAGES[:5]) <= 240
    assert sum(stage.seconds for stage in STAGES) <= 480
    assert len({stage.result for stage in STAGES if stage.result} | {"log.txt", "summary.json"}) <= 8


def test_a_stage_without_enough_time_is_left_out(tmp_path, monkeypatch, capsys):
    import gpu_all

    monkeypatch.setattr(sys, "argv", ["gpu_all.py", "--seconds", "10", "--out", str(tmp_path), "--only", "tests"])
    assert gpu_all.main() == 1
    assert "left out  10 s were left of its 70" in capsys.readouterr().out


def test_a_rehearsal_without_the_host_library_says_what_is_missing(tmp_path, monkeypatch, capsys):
    import gpu_all

    monkeypatch.setenv("EFT_HOSTCUDA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["gpu_all.py", "--rehearse", "--out", str(tmp_path / "out")])
    assert gpu_all.main() == 2
    said = capsys.readouterr().err
    assert "make test builds" in said
    assert said.count("\n") == 1


def test_every_test_that_needs_a_gpu_is_named():
    marked = {str(path.relative_to(ROOT)) for path in (ROOT / "python_tests").rglob("test_*.py")
              if re.search(r"^pytestmark = .*mark\.gpu|^@pytest\.mark\.gpu|^    pytest\.mark\.gpu,", path.read_text(),
                           re.MULTILINE)}  # fmt: skip
    assert marked == set(gpu_tests.FILES)
    made = subprocess.run(["make", "-n", "gpu-test", "BIN=bin"], cwd=ROOT, capture_output=True, text=True, check=True)
    named = re.search(r"-m gpu (.*)", made.stdout)
    assert set(named[1].split()) == marked


def test_counting_tests_of_a_run_that_was_killed():
    printed = """
[gw0] [ 10%] PASSED python_tests/ops/test_cuda_gpu.py::test_small[1-plain]
python_tests/ops/test_cuda_gpu.py::test_small[3-all]
python_tests/ops/test_cuda_gpu.py::test_that_hangs
[gw11] [ 20%] FAILED python_tests/ops/test_cuda_gpu.py::test_small[3-all]
[gw1] [ 30%] SKIPPED python_tests/ops/test_golden.py::test_gpu[triton-1]
[gw1] [100%] ERROR python_tests/ops/test_golden.py::test_gpu[cuda 2]
FAILED python_tests/ops/test_cuda_gpu.py::test_small[3-all] - RuntimeError: cuda: an illegal memory access
"""
    found = gpu_tests.counts_of(printed)
    step = found["python_tests/ops/test_cuda_gpu.py"]
    assert str(step) == "1 passed, 1 failed, 1 unfinished"
    assert step.unfinished == ["python_tests/ops/test_cuda_gpu.py::test_that_hangs"]
    assert step.failed == ["python_tests/ops/test_cuda_gpu.py::test_small[3-all]"]
    assert str(found["python_tests/ops/test_golden.py"]) == "0 passed, 1 failed, 1 skipped"
    assert gpu_tests.reasons_of(printed) == [
        "python_tests/ops/test_cuda_gpu.py::test_small[3-all] - RuntimeError: cuda: an illegal memory access"
    ]
