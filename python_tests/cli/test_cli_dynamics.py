"""`eft dynamics`: what it prints and writes, and one line with exit code 2 on wrong input."""

import json
import math

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
    assert 0 <= verdict["rejected_mass"]["dethroned"] <= 1
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
        (
            ("track", "--method", "dpo", "--data", "{sft}"),
            "line 1: expected the keys 'chosen' and 'rejected' for dpo",
        ),
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
        (("decompose", "--lr", 1e300), "--lr: expected at most 1e+37, got 1e+300"),
        (("track", "--lr", 1e38), "--lr: expected at most 1e+37, got 1e+38"),
        (("track", "--steps", 10**22), f"--steps: expected at most {2**63 - 1}, got {10**22}"),
        (("track", "--every", 10**22), f"--every: expected at most {2**63 - 1}, got {10**22}"),
        (("track", "--sample", 3, "--probes", "{probes}"), "--sample: expected 1 to 2, the number of probes, got 3"),
        (("decompose", "--sample", 0), "--sample: expected 1 to 16, the number of probes, got 0"),
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


@pytest.fixture
def recording(files, tmp_path, capsys):
    out = tmp_path / "run"
    told(capsys, "track", "--out", out, "--probes", files["probes"], "--data", files["sft"], *FEW, "--json")
    return out


FEW = ("--steps", 1, "--batch-size", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plot", "--only", "x"), "--only: expected one of chosen, rejected, got 'x'"),
        (("plot", "--kind", "influence", "--only", "x"), "--only: expected one of chosen, rejected, got 'x'"),
        (("plot", "--statistic", "x"), "--statistic: expected one of "),
        (("tokens", "--only", "x"), "--only: expected one of chosen, rejected, got 'x'"),
        (("diagnose", "--chosen", "x"), "--chosen: expected one of chosen, rejected, got 'x'"),
        (("diagnose", "--rejected", "x"), "--rejected: expected one of chosen, rejected, got 'x'"),
    ],
)
def test_complaints_begin_with_the_option(arguments, message, recording, tmp_path, capsys):
    out = () if arguments[0] == "diagnose" else ("--out", tmp_path / "out.svg")
    assert run(arguments[0], recording, *arguments[1:], *out) == 2
    assert capsys.readouterr().err.startswith(f"eft: {message}")


@pytest.mark.parametrize("kind", ["curves", "confidence", "influence"])
def test_several_recordings_in_one_picture(kind, recording, files, tmp_path, capsys):
    other = lines(tmp_path / "other.jsonl", {"prompt": "Who?", "other": " No."})
    for name, probes in (("two", files["probes"]), ("three", other)):
        told(capsys, "track", "--out", tmp_path / name, "--probes", probes, "--data", files["sft"], *FEW, "--json")
    out = ("--out", tmp_path / "out.svg", "--kind", kind)
    assert run("plot", recording, tmp_path / "two", *out) == 0
    assert "<!-- two -->" in (tmp_path / "out.svg").read_text()
    assert run("plot", recording, tmp_path / "three", *out) == 2
    message = "expected a type of response that all have, got none: run has chosen, rejected; three has other"
    assert capsys.readouterr().err == f"eft: recording: {message}\n"


@pytest.mark.parametrize("types", [5, None, [["a"]], ["x"], {}])
def test_a_recording_with_other_types(types, recording, tmp_path, capsys):
    file = recording / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"types": types}))
    message = f"eft: {file}, key 'types': expected ['chosen', 'rejected'], the types of its probes, got {types!r}\n"
    refused(recording, tmp_path, capsys, message)


def test_a_step_beyond_int64(recording, tmp_path, capsys):
    file = recording / f"step-{10**22}.parquet"
    file.write_bytes((recording / "step-00000001.parquet").read_bytes())
    refused(recording, tmp_path, capsys, f"eft: {file}: expected a step up to {2**63 - 1}, got {10**22}\n")


def refused(recording, tmp_path, capsys, message):
    """By every command that reads it."""
    for command in ("plot", "diagnose", "tokens"):
        out = () if command == "diagnose" else ("--out", tmp_path / "out.svg")
        assert run(command, recording, *out) == 2
        assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("log_prob", ["a", "b", "c", "d"], "expected numbers, got string"),
        ("log_prob", [{"a": 1}] * 4, "expected numbers, got struct<a: int64>"),
        ("log_prob", [None] * 4, "expected numbers, got null"),
        ("log_prob", [1.0, None, 1.0, 1.0], "expected numbers, got null among them"),
        ("token_log_prob", ["a"] * 4, "expected lists of numbers, got string"),
        ("token_log_prob", [None] * 4, "expected lists of numbers, got null"),
        ("token_log_prob", [math.nan] * 4, "expected lists of numbers, got double"),
        ("token_log_prob", [{"a": 1}] * 4, "expected lists of numbers, got struct<a: int64>"),
        ("token_log_prob", [["a"]] * 4, "expected lists of numbers, got list<element: string>"),
        ("token_log_prob", [[None, 1.0]] * 4, "expected lists of numbers, got null among them"),
        ("token_log_prob", [[1.0]] * 4, "expected lists as long as the column 'tokens' says, got others"),
        ("type", ["x"] * 4, "expected the types of probes.jsonl in order, got others"),
        ("probe", [7] * 4, "expected the probes of probes.jsonl in order, got others"),
    ],
)
def test_a_recording_with_another_column(name, values, message, recording, tmp_path, capsys):
    pa, parquet = (pytest.importorskip(each) for each in ("pyarrow", "pyarrow.parquet"))
    file = recording / "step-00000001.parquet"
    table = parquet.read_table(file)
    parquet.write_table(table.set_column(table.column_names.index(name), name, pa.array(values)), file)
    refused(recording, tmp_path, capsys, f"eft: {file}, column {name!r}: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("generate", "--prompt", "x", "--max-new-tokens", 10**22),
            f"--max-new-tokens: expected a number from 1 to {2**63 - 1}",
        ),
        (("generate", "--prompt", "x", "--top-k", 10**22), f"--top-k: expected a number from 0 to {2**63 - 1}"),
        (("generate", "--prompt", "x", "--speculate", "9" * 5000), "--speculate: expected auto or a number from 0 to"),
        (("bench", "--vocab", 10**22), "--vocab: expected a number at most"),
        (("bench", "--rows", 10**22), "--rows: expected a number at most"),
    ],
)
def test_numbers_beyond_any_use(arguments, message, capsys):
    assert main([str(each) for each in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"eft: {message}")
    assert err.count("\n") == 1
