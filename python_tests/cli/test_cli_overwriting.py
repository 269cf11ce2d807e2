"""Files that the command line refuses to write over: what it reads, and what is not its own."""

import os
from pathlib import Path

import pytest

from eft_ext.demo import model_path
from python_tests.cli.conftest import tree

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models were not trained")


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
    monkeypatch.setattr("eft_ext.cli.loading.load", None)
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
