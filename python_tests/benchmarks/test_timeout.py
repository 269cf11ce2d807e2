"""Commands under a time limit: output, errors, children that ignore signals."""

import os
import sys
import time

import pytest
from common import timeout


@pytest.fixture
def run(tmp_path):
    """The end of a Python program, and the log."""

    def run(code, seconds=30.0):
        with open(tmp_path / "log", "a+b") as log:
            command = [sys.executable, "-c", code]
            ended = timeout.run_with_timeout(command, seconds, log, cwd=tmp_path, env=dict(os.environ), shown="it")
        return ended, (tmp_path / "log").read_text()

    return run


def test_what_is_printed_is_kept(run):
    ended, log = run("import sys; print('one'); print('two', file=sys.stderr)")
    assert (ended.fault, ended.output, log) == ("", "one\ntwo\n", "one\ntwo\n")


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("raise SystemExit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed: SIGSEGV"),
        ("raise SystemExit(128 + 6)", "crashed: SIGABRT"),  # as a shell says it
    ],
)
def test_faults_are_said_in_words(run, code, fault):
    assert run(code)[0].fault == fault


@pytest.mark.slow
def test_what_hangs_is_ended_with_its_children(run, monkeypatch):
    monkeypatch.setattr(timeout, "GRACE_SECONDS", 0.5)
    code = """if True:
        import signal, subprocess, sys, time
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(child.pid, flush=True)
        time.sleep(600)
    """
    start = time.monotonic()
    ended, _ = run(code, seconds=3)
    assert time.monotonic() - start < 30
    assert ended.fault == "killed after 3 s"
    child = int(ended.output.split()[0])
    for _ in range(50):  # it is a zombie until somebody has asked for it
        state = _state(child)
        if state in ("", "Z"):
            return
        time.sleep(0.1)
    raise AssertionError(f"the child goes on: {state}")


def _state(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_child_that_outlives_its_parent_is_ended(run):
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    ended, _ = run(code)
    assert ended.fault == ""
    time.sleep(0.5)
    assert _state(int(ended.output.split()[0])) in ("", "Z")  # interrupted, it may have said so, too


def test_too_much_is_cut_out_of_the_middle(run, monkeypatch):
    monkeypatch.setattr(timeout, "MAX_OUTPUT", 1000)
    _, log = run("print('first'); print('x' * 5000); print('last')")
    assert log.startswith("first\n")
    assert log.endswith("last\n")
    assert len(log) < 1100
    _, log = run("print('next')")
    assert log.endswith("last\nnext\n")


def test_a_program_that_is_not_there(tmp_path):
    with open(tmp_path / "log", "a+b") as log:
        ended = timeout.run_with_timeout(["no-such-program"], 5, log, cwd=tmp_path, env={}, shown="it")
    assert ended.fault.startswith("did not start: ")
