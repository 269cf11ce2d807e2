"""Modules that `python -m` runs: whatever is wrong is one line before the work, and no file of others is replaced."""

from __future__ import annotations

import importlib
import io
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from eft_ext.demo import MODELS, checkpoint_path, model_path
from eft_ext.demo.recipe import QUICK

pytest.importorskip("pyarrow")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[2]
TRAIN, STUDY, FIGURES = "eft_ext.demo.train", "eft_ext.demo.dynamics.__main__", "eft_ext.demo.dynamics.figures"
# What each of them begins its work with.
WORK = {TRAIN: "train_tokenizer", STUDY: "load_trio", FIGURES: "sft"}
Main = Callable[..., str]


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """said(module, *arguments) -> the line on stderr, of a run that ends with exit code 2 and does no work."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(name: str, *arguments: object, code: int = 2) -> str:
        module = importlib.import_module(name)
        monkeypatch.setattr(module, WORK[name], None)
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            module.main()
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (code, "")
        return err

    return run


def test_all_of_them_are_here() -> None:
    found = {path for path in (ROOT / "eft_ext").rglob("*.py") if '__name__ == "__main__"' in path.read_text()}
    here = {ROOT / f"{name.replace('.', '/')}.py" for name in WORK}
    assert found == here | {ROOT / "eft_ext" / "__main__.py", ROOT / "eft_ext/integrations/lm_eval.py"}


SAYS = {
    "--out: expected a folder, got the file ": [(TRAIN, "--out", "file", "--quick"), (TRAIN, "--out", "file/deeper")],
    "--out: expected a folder, got the file": [(STUDY, "--out", "file", "--quick"), (STUDY, "--out", "file/deeper")],
    "--threads: expected a number from 1 to 1024, got ": [
        (TRAIN, "--out", "o", "--threads", n) for n in (0, -2, 10**9)
    ],
    "--seeds: expected a number at least 1, got ": [(STUDY, "--out", "o", "--seeds", n) for n in (0, -3)],
    "--seed: expected a whole number from 0 to": [(TRAIN, "--out", "o", "--seed", -1)],
    "--record: no such folder: nope": [(FIGURES, "--record", "nope", "--out", "f")],
    "empty/curves.parquet: expected a file of python -m eft_ext.demo.dynamics": [(FIGURES, "--record", "empty")],
    "broken/curves.parquet: not Parquet": [(FIGURES, "--record", "broken")],
    "other/curves.parquet: expected the columns of": [(FIGURES, "--record", "other")],
    "own/training.json, key 'seed': expected a whole": [
        (TRAIN, "--talkative", "--out", "own"),
        (TRAIN, "--out", "own"),
    ],
    "--out: expected a folder with small-base and training.json, got o": [(TRAIN, "--talkative", "--out", "o")],
    "unrecognized arguments: --wrong": [(name, "--out", "o", "--wrong") for name in WORK],
    "argument --seeds: invalid int value: 'x'": [(STUDY, "--out", "o", "--seeds", "x")],
    "the following arguments are required: --out": [(TRAIN,), (STUDY,)],
}


@pytest.mark.parametrize(("words", "command"), [(words, command) for words, each in SAYS.items() for command in each])
def test_one_line_before_the_work(said: Main, words: str, command: tuple[str, ...]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    Path("file").touch()
    for name in ("empty", "broken", "other", "own/small-base"):
        Path(name).mkdir(parents=True)
    Path("broken/curves.parquet").write_text("mine")
    parquet.write_table(pa.table({"seed": [1]}), "other/curves.parquet")
    Path("own/training.json").write_text('{"a": 1}')
    before = tree()
    err = said(*command)
    assert err.startswith(f"eft: {words}")
    assert err.count("\n") == 1
    assert tree() == before


def tree() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


FOREIGN = {
    "training.json": (TRAIN, '{"mine": 1}'),
    "training.json/file": (TRAIN, "mine"),
    "small-base/config.json": (TRAIN, '{"mine": 2}'),
    "large-tuned": (TRAIN, "mine"),
    "curves.parquet": (STUDY, "mine"),
    "grades.parquet": (STUDY, "mine"),
    "study.json": (STUDY, '{"mine": 1}'),
    "seed-0/sft/run.json": (STUDY, '{"mine": 1}'),
    "seed-0/dpo-own/probes.jsonl": (STUDY, "mine"),
    "seed-0": (STUDY, "mine"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_others_stay(said: Main, name: str) -> None:
    module, text = FOREIGN[name]
    file = Path("out", name)
    file.parent.mkdir(parents=True)
    file.write_text(text)
    err = said(module, "--out", "out", "--quick")
    assert err.startswith("eft: ")
    assert str(Path("out")) in err
    assert err.count("\n") == 1
    assert tree() == {str(file): text.encode()}


def test_a_model_beside_ours_that_is_not_ours(said: Main) -> None:
    """training.json is ours and names one model; the other came from elsewhere."""
    about = json.loads((model_path(MODELS[0]).parent / "training.json").read_text())
    about["models"] = {"small-base": {}}
    for name in ("small-base", "small-talkative"):
        Path("out", name).mkdir(parents=True)
    Path("out/training.json").write_text(json.dumps(about))
    for more in ((), ("--talkative",)):
        err = said(TRAIN, "--out", "out", *more)
        assert err.startswith("eft: --out: expected a new folder or a folder made by python -m eft_ext.demo.train, got")
        assert err.endswith("with another small-talkative\n")


def test_nothing_changes_where_training_fails(said: Main) -> None:
    assert said(TRAIN, "--out", "new", "--quick", code=1).startswith("eft: TypeError: ")
    assert not Path("new").exists()


@pytest.mark.slow
def test_models_are_replaced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changes where training ends after two models; where it comes to its end, five are written again."""
    from eft_ext.demo import train

    console = Console(file=io.StringIO())
    saved: list[str] = []

    def save(model: object, tokenizer: object, folder: Path) -> None:
        real(model, tokenizer, folder)
        saved.append(folder.name)
        if len(saved) == 2:
            raise KeyboardInterrupt

    real = train._save
    monkeypatch.setattr(train, "train_tokenizer", partial(train.train_tokenizer, documents_seen=500))
    monkeypatch.chdir(tmp_path)
    for name in MODELS:
        Path("out", name).mkdir(parents=True)
    shutil.copy(model_path(MODELS[0]).parent / "training.json", "out")
    Path("out/mine.txt").write_text("mine")
    before = tree()
    monkeypatch.setattr(train, "_save", save)
    with pytest.raises(KeyboardInterrupt):
        train.make(Path("out"), 1, QUICK, console)
    assert saved == ["small-base", "small-tuned"]
    assert tree() == before
    train.make(Path("out"), 1, QUICK, console)
    assert json.loads(Path("out/training.json").read_text())["seed"] == 1
    assert all(Path("out", name, "model.safetensors").is_file() for name in MODELS)
    shipped = {path.name for path in checkpoint_path().iterdir()} - {"README.md"}
    assert {path.name for path in Path("out").iterdir()} == {*shipped, "mine.txt"}
    Path("out/config.json").write_text("{}")
    with pytest.raises(ValueError, match="^--out: expected a new folder or .* with another config.json"):
        train.make(Path("out"), 1, QUICK, console)


def test_the_traceback_is_shown_when_asked_for(said: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFT_DEBUG", "1")
    err = said(TRAIN, "--out", "o", "--threads", 0)
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("\neft: --threads: expected a number from 1 to 1024, got 0\n")


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from eft_ext._errors import one_line

    with one_line():
        warnings.warn("one\ntwo", stacklevel=1)
    assert capsys.readouterr().err == "eft: warning: one two\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_in_a_process_of_its_own(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", name.removesuffix(".__main__"), "--out", str(tmp_path / "file")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"eft: --out: expected a folder, got the file {tmp_path / 'file'}\n"
