"""`eft dynamics plot`: options that fit the kind of picture, and recordings that diverged, by name."""

import math
import re
import shutil

import pytest

from eft_ext.cli import main
from eft_ext.cli.dynamics_recordings import _STATISTICS

pa, parquet = (pytest.importorskip(each) for each in ("pyarrow", "pyarrow.parquet"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "run"
    assert main(["dynamics", "track", "--out", str(folder), "--steps", "1", "--sample", "2", "--json"]) == 0
    return folder


def plot(*arguments):
    return main(["dynamics", "plot", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "influence", "--change"), "--change: expected --kind curves or confidence, got influence"),
        (("--kind", "influence", "--statistic", "a_norm"), "--statistic: expected --kind curves, got influence"),
        (
            ("--kind", "confidence", "--statistic", "log_prob_mean"),
            "--statistic: expected --kind curves, got confidence",
        ),
        (("--statistic", ""), "--statistic: expected one of "),
    ],
)
def test_options_of_another_kind_are_refused(arguments, message, recorded, tmp_path, capsys):
    assert plot(recorded, "--out", tmp_path / "a.svg", *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"eft: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "a.svg").exists()


def test_change_of_confidence(recorded, tmp_path):
    assert plot(recorded, "--out", tmp_path / "a.svg", "--kind", "confidence", "--change") == 0
    assert "<!-- change of log p_max per token, nats -->" in (tmp_path / "a.svg").read_text()


def test_every_statistic_is_in_the_help(recorded, tmp_path, capsys):
    assert plot(recorded, "--out", tmp_path / "a.svg", "--statistic", "x") == 2
    accepted = capsys.readouterr().err.partition("expected one of ")[2].partition(", got")[0].split(", ")
    named = re.findall(r"\w+", _STATISTICS.partition(": ")[2].partition(".")[0].replace(" or ", " "))
    assert set(named) == set(accepted) - {"step", "lr", "probe"}


def test_runs_that_diverged_are_named_and_nothing_else_is_said(recorded, tmp_path, capsys):
    for name in ("lost", "also_lost"):
        shutil.copytree(recorded, tmp_path / name)
        file = tmp_path / name / "step-00000000.parquet"
        for each in (file, file.with_name("step-00000001.parquet")):
            table = parquet.read_table(each)
            for column in ("log_prob", "log_prob_mean", "argmax_log_prob_mean"):
                where = table.column_names.index(column)
                lost = pa.array([-math.inf] * len(table), table.schema.field(where).type)
                table = table.set_column(where, column, lost)
            parquet.write_table(table, each)
    capsys.readouterr()
    runs = tmp_path / "lost", recorded, tmp_path / "also_lost"
    for options in ((), ("--change",), ("--kind", "confidence", "--change"), ("--kind", "influence")):
        assert plot(*runs, "--out", tmp_path / "a.svg", *options) == 0
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 2
        for line, run in zip(said, (runs[0], runs[2]), strict=True):
            assert f"{run}: training diverged: log π is not finite from step 0 on" in line
