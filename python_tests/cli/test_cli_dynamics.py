"""`eft dynamics`: what it prints and writes, and one line with exit code 2 on wrong input."""

import json

import pytest

from eft_ext.cli import main
from eft_ext.dynamics import Recording
from python_tests.analysis.pages import Page, read_back

pytest.importorskip("pyarrow")


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path):
    prompts = [f"Question: {q}?\nAnswer:" for q in ("Who", "Where", "When")]
    pairs = [{"prompt": p, "chosen": " Thank you for asking!", "rejected": " No."} for p in prompts]
    return {
        "probes": lines(tmp_path / "probes.jsonl", *pairs[:2]),
        "pairs": lines(tmp_path / "pairs.jsonl", *pairs),
        "sft": lines(tmp_path / "sft.jsonl", *({"prompt": p, "completion": " Yes."} for p in prompts)),
    }


def run(*arguments):
    return main(["dynamics", *map(str, arguments)])


def told(capsys, *arguments):
    capsys.readouterr()
    assert run(*arguments) == 0
    return json.loads(capsys.readouterr().out)


def test_track_diagnose_and_plot(files, tmp_path, capsys):
    out = tmp_path / "run"
    data = ("--probes", files["probes"], "--data", files["pairs"], "--batch-size", 2)
    options = ("--method", "dpo", "--steps", 3, "--every", 2, "--lr", 1e-3, "--json", "--save", tmp_path / "model")
    found = told(capsys, "track", "--out", out, *data, *options)
    assert found["steps"] == [0, 2, 3]
    assert found["change"]["rejected"] < found["change"]["chosen"]
    recording = Recording(out)
    assert recording.about["loss"] == "DPO(beta=0.1)"
    assert (tmp_path / "model" / "model.safetensors").is_file()
    verdict = told(capsys, "diagnose", out, "--json")
    assert verdict["squeezed"] == found["squeezed"]
    for kind in ("curves", "confidence", "influence"):
        assert run("plot", out, "--out", tmp_path / f"{kind}.svg", "--kind", kind, "--only", "chosen") == 0
        assert (tmp_path / f"{kind}.svg").stat().st_size > 1000
    assert run("tokens", out, "--out", tmp_path / "tokens.jsonl") == 0
    page = tmp_path / "tokens.html"
    assert main(["report", "--records", str(tmp_path / "tokens.jsonl"), "--out", str(page)]) == 0
    shown = [token.attribution for record in read_back(Page(page.read_text())) for token in record]
    assert shown
    assert all(list(parts) == ["steps 0 to 2", "steps 2 to 3"] for parts in shown)
    again = told(capsys, "track", "--out", out, *data, "--extend", "--steps", 1, "--overwrite", "--json")
    assert again["steps"] == [0, 1]
    assert run("track", "--out", out, *data, "--steps", 1) == 2
    assert "has a recording already" in capsys.readouterr().err


def test_embedded_defaults(tmp_path, capsys):
    assert run("track", "--out", tmp_path / "run", "--steps", 1) == 0
    assert "chosen_paraphrase" in capsys.readouterr().out


@pytest.mark.slow
def test_decompose(files, tmp_path, capsys):
    arguments = ("decompose", "--probes", files["probes"], "--batch-size", 2, "--lr", 1e-4, "--lr", 1e-5)
    found = told(capsys, *arguments, "--data", files["sft"], "--json", "--plot", tmp_path / "scatter.png")
    assert [(row["lr"], row["type"]) for row in found["steps"]] == [
        (lr, name) for lr in (1e-4, 1e-5) for name in ("chosen", "rejected")
    ]
    assert abs(found["order"] - 2) < 0.1
    for row in found["steps"]:
        assert row["predicted"] == pytest.approx(row["actual"], rel=0.2)
    assert (tmp_path / "scatter.png").is_file()
    assert run(*arguments, "--data", files["pairs"], "--method", "slic") == 0
    assert "2 is exact first order" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("track", "--steps", 0), "--steps: expected at least 1, got 0"),
        (("track", "--extend", "--method", "dpo"), "--extend: expected --method sft, got dpo"),
        (("track", "--method", "dpo", "--data", "{sft}"), "row 1: expected the keys 'chosen' and 'rejected' for dpo"),
        (
            ("track", "--batch-size", 9, "--data", "{sft}"),
            "--batch-size: expected at most 3, the rows of the data, got 9",
        ),
        (("track", "--data", "/nowhere.jsonl"), "no such file"),
        (("track", "--probes", "{bad}"), "line 1: expected the key 'prompt'"),
        (("decompose", "--data", "{bad}"), "line 1: expected the key 'chosen', got completion"),
        (("decompose", "--lr", -1.0), "--lr: expected a positive number, got -1.0"),
        (("decompose", "--lr", "nan"), "--lr: expected a positive number, got nan"),
        (("track", "--lr", "inf"), "--lr: expected a positive number, got inf"),
        (("decompose", "--batch-size", 0), "--batch-size: expected at least 1, got 0"),
        (("decompose", "--plot", "x.txt"), "--plot: expected a name ending in .png, .svg, .pdf, got x.txt"),
        (("decompose", "--plot", "/nowhere/x.png"), "--plot: no such folder: /nowhere"),
        (("plot", "run", "--out", "/nowhere/x.png"), "--out: no such folder: /nowhere"),
        (("tokens", "run", "--out", "/nowhere/x"), "--out: no such folder: /nowhere"),
        (("track", "--model", "/nowhere"), "--model: no such folder: /nowhere"),
        (("track", "--method", "ppo"), "ppo"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, files, tmp_path, capsys):
    files["bad"] = lines(tmp_path / "bad.jsonl", {"x": "y"})
    given = [str(a).format(**files) for a in arguments]
    out = ["--out", str(tmp_path / "run")] if given[0] == "track" else []
    if "{bad}" in arguments and given[0] == "decompose":
        message = message.replace("completion", "x")
    assert run(*given, *out) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_picture_of_nothing(tmp_path, capsys):
    assert run("plot", tmp_path, "--out", tmp_path / "a.png") == 2
    assert "expected a folder with a recording" in capsys.readouterr().err
