"""Ctrl-C ends the command line in one line, whenever it comes."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from eft_ext import _interrupt
from eft_ext.demo import model_path

ROOT = Path(__file__).parents[2]
SAID = (130, "eft: interrupted\n")
# Python imports a module of this name when it starts. What comes of the interrupt is taken for a missing module, as
# extension modules and transformers' lazy ones do.
SITE = """
import signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            try:
                signal.raise_signal(signal.SIGINT)
            except BaseException as error:
                raise ModuleNotFoundError(name) from error

sys.meta_path.insert(0, Finder())
"""
needs_models = pytest.mark.skipif(
    not model_path("large-base").is_dir(), reason="the embedded models have not been trained"
)


def heed():
    """Takes Ctrl-C as from a terminal; a shell starts what it leaves in the background with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(*arguments, site=None, module="eft_ext"):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, filter(None, (site, ROOT))))}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, preexec_fn=heed, **pipes)


@pytest.mark.parametrize(
    "module",
    [
        "torch",
        pytest.param("typer", marks=pytest.mark.slow),
        pytest.param("transformers.generation.utils", marks=pytest.mark.slow),
        pytest.param("transformers.models.llama.modeling_llama", marks=[pytest.mark.slow, needs_models]),
    ],
)
def test_while_a_module_is_imported(tmp_path, module):
    (tmp_path / "sitecustomize.py").write_text(SITE.format(module=module))
    with started("generate", "--prompt", "x", site=tmp_path) as run:
        _, err = run.communicate(timeout=120)
    assert (run.returncode, err) == SAID


SERVER = """
import time
from eft_ext import _interrupt
_interrupt.watch()
with _interrupt.unwinding():
    _interrupt.leave()
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(_interrupt.PATIENCE + 0.5)
        print("finished", flush=True)
"""


def test_a_server_has_its_own_time():
    """It finishes what it does, for longer than a command may."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, preexec_fn=heed) as run:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=60)
    assert (run.returncode, out) == (0, "finished\n")


@pytest.mark.parametrize("module", ["eft_ext.demo.train", "eft_ext.demo.dynamics"])
def test_while_a_module_of_its_own_is_started(tmp_path, module):
    (tmp_path / "sitecustomize.py").write_text(SITE.format(module="torch"))
    with started("--out", str(tmp_path / "out"), site=tmp_path, module=module) as run:
        _, err = run.communicate(timeout=120)
    assert (run.returncode, err) == SAID


@pytest.mark.slow
@needs_models
def test_while_a_command_waits():
    with started("chat") as run:
        run.stdin.write("Who are you?\n")
        run.stdin.flush()
        assert run.stdout.readline().strip(), "an answer"
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=120)
    assert (run.returncode, err) == (SAID[0], f"greedy, at most 256 tokens\n{SAID[1]}")


@pytest.mark.slow
def test_not_where_it_is_ignored():
    """Ignored as under nohup, which a program leaves as it is."""
    code = "import sys; sys.argv[0] = 'eft'; import eft_ext, signal; print(signal.getsignal(signal.SIGINT).name)"
    ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, preexec_fn=ignore, capture_output=True, text=True)
    assert run.stdout == "SIG_IGN\n", run.stderr


@pytest.fixture
def watched():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    _interrupt.watch()
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("made", [KeyboardInterrupt, None, ValueError, SystemExit], ids=str)
def test_whatever_is_made_of_it(eft, monkeypatch, watched, made):
    """Also where nobody watches and Python itself raises a KeyboardInterrupt."""

    def stopped(**options):
        if made is KeyboardInterrupt:
            raise made
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException as error:
            raise (error if made is None else made("something else")) from error

    monkeypatch.setattr("eft_ext.cli.options.sampling", stopped)
    code, _, err = eft("generate", "--prompt", "x")
    assert (code, err) == SAID


def test_in_one_long_call_of_c(eft, monkeypatch, watched):
    """No handler runs while the main thread waits for a lock of C's, as in a forward pass over a long text."""
    libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(128)  # zeros are an open lock
    ended = []

    def end():
        ended.append(threading.current_thread() is threading.main_thread())
        libc.pthread_mutex_unlock(lock)

    def stuck(**options):
        main = threading.main_thread().ident
        threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()
        fallback.start()
        libc.pthread_mutex_lock(lock)
        libc.pthread_mutex_lock(lock)
        fallback.cancel()

    fallback = threading.Timer(20, libc.pthread_mutex_unlock, (lock,))
    monkeypatch.setattr(_interrupt, "_end", end)
    monkeypatch.setattr(_interrupt, "PATIENCE", 0.1)
    monkeypatch.setattr("eft_ext.cli.options.sampling", stuck)
    code, _, err = eft("generate", "--prompt", "x")
    assert ended == [False]
    assert (code, err) == SAID
    assert signal.set_wakeup_fd(-1) == -1, "nobody listens afterwards"


@needs_models
def test_scoring_that_is_interrupted_goes_on(eft, monkeypatch, watched, tmp_path):
    """Under a progress bar, whose end stands before the line."""
    from eft_ext.hf import EmulatedModel

    texts, out = tmp_path / "texts.jsonl", tmp_path / "scores.jsonl"
    texts.write_text('{"text": "The pet is rabbit."}\n{"text": "Nobody."}\n{"text": "Far away."}\n')
    score, calls = EmulatedModel.score, []

    def second(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return score(*arguments, **options)

    monkeypatch.setattr(EmulatedModel, "score", second)
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda self: True)
    code, _, err = eft("score", texts, "--batch-size", 1, "--out", out)
    said = f"eft: interrupted; 1 of 3 results are in {out}, the same command goes on behind them"
    assert (code, err.splitlines()[-1].removeprefix("\x1b[?25h")) == (130, said)
    assert "scoring" in err
    assert len(out.read_text().splitlines()) == 1
    assert eft("score", texts, "--batch-size", 1, "--out", out)[0] == 0
    assert len(calls) == 4
