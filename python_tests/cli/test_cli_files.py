"""Files that the command line writes: on a full disk the old file stays whole, and one line names it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eft_ext._files import Lock
from eft_ext.demo import model_path
from python_tests.cli.conftest import tree
from python_tests.helpers.full_disk import full_behind

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models were not trained")
ROOT = Path(__file__).parents[2]


DEMO = ("demo", "--questions", 2, "--shown", 0, "--no-sampled", "--json")
COMMANDS = {
    "report": ("page.html", ("report", "--records", "records.jsonl", "--out", "page.html")),
    "tokens": ("tokens.jsonl", ("dynamics", "tokens", "run", "--out", "tokens.jsonl")),
    "plot png": ("p.png", ("dynamics", "plot", "run", "--out", "p.png")),
    "plot svg": ("p.svg", ("dynamics", "plot", "run", "--out", "p.svg", "--kind", "influence")),
    "plot pdf": ("p.pdf", ("dynamics", "plot", "run", "--out", "p.pdf", "--kind", "confidence")),
    "decompose": ("p.png", ("dynamics", "decompose", "--batch-size", 2, "--lr", 1e-4, "--plot", "p.png")),
    "demo json": ("demo.json", (*DEMO, "--json-path", "demo.json")),
    "demo plot": ("demo.png", (*DEMO, "--plot-path", "demo.png")),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * name.startswith(("decompose", "demo"))) for name in COMMANDS],
)
def test_a_full_disk(eft, folder, name):
    target, command = COMMANDS[name]
    pytest.importorskip("matplotlib")
    Path(target).write_text("old")
    before = tree(folder)
    with full_behind(300):
        code, _, err = eft(*command)
    said = "16 prompts, 144 responses of 9 types\n" if name == "decompose" else ""
    assert (code, err) == (2, f"{said}eft: {target}: file too large\n")
    assert tree(folder) == before
    assert eft(*command)[0] in (0, 1)
    assert Path(target).stat().st_size > 300


def test_a_full_disk_under_a_recording(eft, folder):
    command = ("dynamics", "track", "--out", "new", "--probes", "run/probes.jsonl", "--steps", 1)
    with full_behind(2000):
        code, _, err = eft(*command)
    watched = "1 prompt, 2 responses of 2 types\n"
    assert (code, err) == (2, f"{watched}eft: new/step-00000000.parquet: file too large\n")
    assert os.listdir("new") == ["run.lock"]
    with full_behind(100_000):
        code, _, err = eft(*command, "--save", "model")
    assert code == 2, "nothing was recorded before, and nobody holds it"
    assert err.startswith(f"{watched}eft: model: ")
    assert "File too large" in err
    assert err.count("\n") == 2
    assert not Path("model").exists()


def test_a_full_disk_under_a_recording_that_is_to_be_replaced(eft, folder):
    before = tree(folder)
    command = ("dynamics", "track", "--out", "run", "--overwrite", "--steps", 1)
    with full_behind(2000):
        code, _, err = eft(*command)
    watched = "16 prompts, 144 responses of 9 types\n"
    assert (code, err) == (2, f"{watched}eft: run/step-00000000.parquet: file too large\n")
    assert tree(folder) == before


def test_a_full_disk_under_scores(eft, folder):
    """Lines that were whole stay, and a later run goes on behind them."""
    command = ("score", "texts.jsonl", "--batch-size", 1, "--json", "--out")
    whole = json.loads(eft(*command, "whole.jsonl")[1])
    with full_behind(1000):
        code, _, err = eft(*command, "part.jsonl")
    assert (code, err) == (2, "eft: part.jsonl: file too large\n")
    part, want = Path("part.jsonl").read_bytes(), Path("whole.jsonl").read_bytes()
    assert len(part) == 1000, "cut within a line"
    assert want.startswith(part)
    assert json.loads(eft(*command, "part.jsonl")[1])["results"] == whole["results"]
    assert Path("part.jsonl").read_bytes() == want


def test_two_that_score_into_one_file(eft, folder):
    Path("link.jsonl").symlink_to("scores.jsonl")
    other = Lock(folder / "scores.jsonl.lock", "")
    other.take()
    for out in ("scores.jsonl", "link.jsonl"):
        code, _, err = eft("score", "texts.jsonl", "--out", out)
        assert (code, err) == (2, f"eft: {out} is already being written\n")
    other.release()
    assert eft("score", "texts.jsonl", "--out", "link.jsonl")[0] == 0
    assert len(Path("scores.jsonl").read_text().splitlines()) == 9
    assert "expected a file that results can be appended to" in eft("score", "texts.jsonl", "--out", "/dev/null")[2]


def test_what_cannot_be_recorded_is_said_before_anything_is_loaded(eft, folder, monkeypatch):
    monkeypatch.setattr("eft_ext.cli.dynamics_inputs.Tuning.load", None)
    Path("foreign").mkdir()
    Path("foreign/run.json").write_text('{"name": "mine"}')
    before = tree(folder)
    for options, said in {
        ("--out", "run"): "--out: run has a recording already (steps 0 to 1); give --overwrite or another folder",
        ("--out", "foreign", "--overwrite"): "--out: foreign/run.json: expected a recording, got something else",
        ("--out", "texts.jsonl"): f"--out: expected a folder, got the file {folder}/texts.jsonl",
        ("--out", "new", "--save", "texts.jsonl"): f"--save: expected a folder, got the file {folder}/texts.jsonl",
    }.items():
        code, _, err = eft("dynamics", "track", *options)
        assert (code, err) == (2, f"eft: {said}\n")
    other = Lock(folder / "run" / "run.lock", "")
    other.take()
    code, _, err = eft("dynamics", "track", "--out", "run", "--overwrite")
    assert (code, err) == (2, "eft: --out: run is already being written\n")
    assert tree(folder) == before


def test_a_run_that_diverges(eft, folder):
    command = (
        "dynamics",
        "track",
        "--out",
        "new",
        "--probes",
        "run/probes.jsonl",
        "--lr",
        1e30,
        "--steps",
        2,
        "--json",
    )
    code, out, err = eft(*command)
    found = json.loads(out, parse_constant=pytest.fail)
    assert (code, found["change"]) == (0, {"chosen": None, "rejected": None})
    assert err == "eft: warning: new: training diverged: log π is not finite from step 2 on; try a smaller --lr\n"
    assert (found["squeezed"], found["verdict"]) == (None, "steps 0 to 2: training diverged, log π is not finite.")
    told = json.loads(eft("dynamics", "diagnose", "new", "--json")[1], parse_constant=pytest.fail)
    assert (told["squeezed"], told["chosen"]) == (None, [None] * 3)
    warned = "eft: warning: new: training diverged: log π is not finite from step 2 on\n"
    for reading in ("diagnose new", "tokens new --out t.jsonl"):
        assert eft("dynamics", *reading.split())[::2] == (0, warned)
    pytest.importorskip("matplotlib")
    assert eft("dynamics", "plot", "new", "--out", "p.svg")[::2] == (0, warned)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "unbuffered"), [("env --json", ""), ("env --json", "1"), ("generate --prompt x --stream", "")]
)
def test_a_full_disk_under_stdout(command, unbuffered):
    arguments = [sys.executable, "-m", "eft_ext", *command.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        run = subprocess.run(arguments, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (run.returncode, run.stderr.splitlines()[-1]) == (2, "eft: stdout: no space left on device")
    assert run.stderr.count("eft: ") == 1
