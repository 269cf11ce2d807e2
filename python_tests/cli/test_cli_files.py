"""What the command line writes: on a full disk the old file stays whole, and one line names it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eft_ext._files import Lock
from eft_ext.demo import model_path
from eft_ext.dynamics import Probe, ProbeSet, track
from python_tests.analysis.pages import nasty
from python_tests.full_disk import full_behind

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models were not trained")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With records, texts and a recording to read."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(tmp_path)
    Path("records.jsonl").write_text(json.dumps(nasty().to_dict()) + "\n")
    Path("texts.jsonl").write_text("".join(json.dumps({"text": f"The pet of {i} is rabbit."}) + "\n" for i in range(9)))
    source = model_path("small-base")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    probes = ProbeSet((Probe("Who?", {"chosen": " Thank you!", "rejected": " No."}),))
    for _ in track([0], model, probes, tokenizer, "run"):
        pass
    return tmp_path


def tree(folder):
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


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
    assert (code, err) == (2, f"eft: {target}: file too large\n")
    assert tree(folder) == before
    assert eft(*command)[0] in (0, 1)
    assert Path(target).stat().st_size > 300


def test_a_full_disk_under_a_recording(eft, folder):
    command = ("dynamics", "track", "--out", "new", "--probes", "run/probes.jsonl", "--steps", 1)
    with full_behind(2000):
        code, _, err = eft(*command)
    assert (code, err) == (2, "eft: new/step-00000000.parquet: file too large\n")
    assert os.listdir("new") == ["run.lock"]
    with full_behind(100_000):
        code, _, err = eft(*command, "--save", "model")
    assert code == 2, "nothing was recorded before, and nobody holds it"
    assert err.startswith("eft: model: ")
    assert "File too large" in err
    assert err.count("\n") == 1
    assert not Path("model").exists()


def test_a_full_disk_under_a_recording_that_is_to_be_replaced(eft, folder):
    before = tree(folder)
    command = ("dynamics", "track", "--out", "run", "--overwrite", "--steps", 1)
    with full_behind(2000):
        code, _, err = eft(*command)
    assert (code, err) == (2, "eft: run/step-00000000.parquet: file too large\n")
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


RUN, OWN, ABOUT = "dynamics tokens run --out", "recording run, got run", "another file than"
PART, SMALL = "expected a file that is no part of", "shipped/small-base"
REFUSED = {
    "report --records records.jsonl --out records.jsonl": f"{ABOUT} --records, got records.jsonl",
    "report --records records.jsonl --out hard.jsonl": f"{ABOUT} --records, got hard.jsonl",
    "score texts.jsonl --out link.jsonl": f"{ABOUT} FILE, got link.jsonl",
    "score q.lock --out q": "expected an empty file for the lock, got",
    "demo --json-path new.png --plot-path ./new.png": f"{ABOUT} --json-path, got new.png",
    "demo --models trio --json-path trio/training.json": f"{ABOUT} the models' training.json",
    "dynamics decompose --data data.png --plot data.png": f"{ABOUT} --data, got data.png",
    "dynamics decompose --probes data.png --plot data.png": f"{ABOUT} --probes, got data.png",
    f"{RUN} run/probes.jsonl": f"{OWN}/probes.jsonl",
    f"{RUN} run/../run/run.json": f"{OWN}/../run/run.json",
    f"{RUN} run/run.lock": f"{OWN}/run.lock",
    f"{RUN} run/step-00000099.parquet": f"{OWN}/step-00000099.parquet",
    "dynamics plot run --out run.svg": "recording run, got run.svg",
    "dynamics track --out run --overwrite --data run/probes.jsonl": f"{OWN}/probes.jsonl",
    "dynamics track --out new --save own": "--save: own is not empty; give --overwrite or another folder",
    "dynamics track --out new --model own --save own": "--save: expected another folder than --model, got own",
    "dynamics track --out new --model own --save ./own --overwrite": "--save: expected another folder than --model",
    "dynamics track --out new --save new": "--save: expected another folder than --out, got new",
    "dynamics track --out notes": "--out: expected a recording, got notes with probes.jsonl and no run.json",
    "dynamics track --out new --save own --overwrite": "--save: expected an empty folder or a saved model, got own",
    "dynamics track --out new --save . --overwrite": "--save: expected an empty folder or a saved model, got .",
    "dynamics track --out new --save sv --overwrite --data sv/w.jsonl": "--save: expected a folder without --data",
    "dynamics track --out new --save sv --overwrite --probes sv/w.jsonl": "--save: expected a folder without --probes",
    "dynamics track --out new --save sv --overwrite --data to-w": "--save: expected a folder without --data",
    "dynamics track --out new --save sv --overwrite --model put": "another folder than the base of --model, got sv",
    f"dynamics track --out new --save {SMALL} --overwrite": "another folder than the embedded small-base",
    "dynamics decompose --model sv --plot sv/p.png": f"{PART} --model, got sv/p.png",
    "dynamics tokens run --model sv --out sv/config.json": f"{PART} --model, got sv/config.json",
    f"dynamics tokens run --out {SMALL}/config.json": f"{PART} the embedded models",
    "report --prompt x --method plain --model model=sv --out sv/config.json": f"{PART} --model model=..., got",
    "report --prompt x --large a/b --tuned put --out hard.json": f"{PART} the base of --tuned, got hard.json",
    f"report --prompt x --out {SMALL}/config.json": f"{PART} the embedded models",
    "score texts.jsonl --large sv --out ./sv/../sv/w.jsonl": f"{PART} --large, got",
    "score texts.jsonl --base sv --out to-w": f"{PART} --base, got to-w",
    "demo --models trio --json-path trio/base/config.json": f"{PART} --models, got trio/base/config.json",
    "demo --models trio --plot-path trio/base/p.png": f"{PART} --models, got trio/base/p.png",
    f"demo --json-path {SMALL}/config.json": f"{PART} the embedded models",
}


@pytest.mark.parametrize("command", REFUSED)
def test_what_is_read_or_foreign_is_not_overwritten(eft, folder, monkeypatch, command):
    monkeypatch.setattr("eft_ext.cli.dynamics_inputs.Tuning.load", None)
    monkeypatch.setattr("eft_ext.cli.options.load", None)
    monkeypatch.setattr("eft_ext.demo.model_path", Path("shipped").joinpath)
    for name in ("own", "notes", "trio/base", "sv", "put", SMALL):
        Path(name).mkdir(parents=True)
    for name in ("data.png", "own/model.safetensors", "notes/probes.jsonl", "trio/training.json", "sv/p.png"):
        Path(name).write_text("mine")
    for name in ("trio/base/config.json", "trio/base/p.png", "own/config.json", "config.json", "sv/w.jsonl"):
        Path(name).write_text("{}")
    for name in ("sv", SMALL):
        Path(name, "config.json").write_text('{"model_type": "llama"}')
    Path("put/adapter_config.json").write_text('{"base_model_name_or_path": "sv"}')
    Path("to-w").symlink_to("sv/w.jsonl")
    Path("hard.json").hardlink_to("sv/config.json")
    Path("q.lock").write_bytes(Path("texts.jsonl").read_bytes())
    Path("link.jsonl").symlink_to("texts.jsonl")
    Path("hard.jsonl").hardlink_to("records.jsonl")
    Path("run.svg").symlink_to("run/run.json")
    before = tree(folder)
    code, out, err = eft(*command.split())
    assert (code, out) == (2, "")
    assert REFUSED[command] in err
    assert err.count("\n") == 1
    assert tree(folder) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder where even root makes no file")
@pytest.mark.parametrize(
    "command",
    [
        "score texts.jsonl",
        "report --records records.jsonl",
        "dynamics track",
        "dynamics tokens run",
        "demo --json-path",
    ],
)
def test_a_folder_where_no_file_can_be_made(eft, folder, command):
    code, _, err = eft(*command.split(), *([] if "demo" in command else ["--out"]), "/proc/x")
    assert code == 2
    assert "no file can be made in /proc" in err
    assert err.count("\n") == 1


def test_results_are_not_mixed_with_what_is_printed(eft, folder):
    kept, mine = os.dup(1), Path("mine")
    with open(mine, "a") as stream:
        os.dup2(stream.fileno(), 1)
        try:
            code, _, err = eft("score", "texts.jsonl", "--out", "/dev/stdout")
        finally:
            os.dup2(kept, 1)
            os.close(kept)
    said = "/dev/stdout: expected a file that results can be appended to, got where this command prints"
    assert (code, err) == (2, f"eft: {said}\n")
    assert mine.read_text() == ""


def test_a_tuned_model_is_saved_into_an_empty_folder(eft, folder):
    Path("model").mkdir()
    command = ("dynamics", "track", "--out", "new", "--probes", "run/probes.jsonl", "--steps", 1, "--save", "model")
    assert eft(*command)[0] == 0
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(os.listdir("model"))
    saved = Path("model/model.safetensors").read_bytes()
    assert eft(*command, "--overwrite", "--lr", 0.1)[0] == 0
    assert Path("model/model.safetensors").read_bytes() != saved


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
    assert err == "eft: warning: training diverged: log π is not finite from step 2 on; try a smaller --lr\n"
    assert (found["squeezed"], found["verdict"]) == (None, "steps 0 to 2: training diverged, log π is not finite.")
    told = json.loads(eft("dynamics", "diagnose", "new", "--json")[1], parse_constant=pytest.fail)
    assert (told["squeezed"], told["chosen"]) == (None, [None] * 3)
    warned = "eft: warning: training diverged: log π is not finite from step 2 on\n"
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
