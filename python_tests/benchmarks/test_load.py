"""load_server.py where vLLM need not be installed: its rows, its percentiles, its requests and its checks."""

import statistics
import subprocess
import sys

import load_server
import pytest
from load import tables, times
from load.requests import BAD, KINDS, mixed, plain
from load.rows import Rows

from eft_ext._jsonl import read_lines

WRITER = """
import os, signal, sys
from pathlib import Path
sys.path.append(sys.argv[2])
from load.rows import Rows
rows = Rows(Path(sys.argv[1]))
for row in range(5):
    rows.add(row, "é" * row)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_rows_outlive_their_process(tmp_path):
    path = tmp_path / "rows.jsonl"
    command = [sys.executable, "-c", WRITER, path, load_server.__file__.removesuffix("load_server.py")]
    assert subprocess.run(command, check=False).returncode == -9
    rows = Rows(path)
    assert rows.missing(range(7)) == [5, 6]
    rows.add(6, "six")
    rows.close()
    assert [line.object for line in read_lines(path)] == [
        *({"row": row, "text": "é" * row} for row in range(5)),
        {"row": 6, "text": "six"},
    ]


def test_a_torn_last_line_is_asked_again(tmp_path):
    """Every cut through the last line leaves the rows before it, and the file takes the row once more."""
    path = tmp_path / "rows.jsonl"
    whole = b'{"row": 4, "text": "a\\nb"}\n{"row": 2, "text": "\xc3\xa9"}\n'
    first = whole.index(b"\n{") + 1
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        rows = Rows(path)
        missing = rows.missing((2, 4))
        assert missing == ([2, 4] if length < first else [2])
        for row in missing:
            rows.add(row, {4: "a\nb", 2: "é"}[row])
        rows.close()
        assert Rows(path).texts == {4: "a\nb", 2: "é"}
        assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    "line",
    ['{"row": 1, "text": "again"}', '{"row": 2}', "[1]", '{"row": 2, "te'],
    ids=["twice", "keys", "list", "torn"],
)
def test_a_wrong_line_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"row": 1, "text": "one"}}\n{line}\n{{"row": 3, "text": "three"}}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: expected one more row and its text"):
        Rows(path)


def test_percentiles_are_those_of_the_standard_library():
    seconds = [0.001 * (number * 37 % 101) ** 2 for number in range(301)]
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    assert times.spread(seconds) == pytest.approx({"p50": 1e3 * cuts[49], "p99": 1e3 * cuts[98]})
    assert times.spread([0.25]) == {"p50": 250.0, "p99": 250.0}


def test_tokens_that_come_together():
    assert times.further([(0.5, 1), (0.75, 1), (1.75, 3)]) == [0.25, 1.0, 0.0, 0.0]
    assert times.further([(0.5, 1)]) == []
    assert times.medians([{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 4.0}, {"a": 2.0, "b": 9.0}]) == {"a": 2.0, "b": 5.0}


def test_a_mixture_has_every_kind_and_pairs_to_compare():
    requests = mixed(64)
    assert len(requests) == 64
    assert {each.kind for each in requests} == set(KINDS)
    assert {each.bad for each in requests if each.kind.startswith("bad")} == set(range(len(BAD)))
    whole, streamed = (
        {(each.prompt, each.beta) for each in requests if each.kind == kind} for kind in ("whole", "streamed")
    )
    assert whole == streamed
    assert len({beta for _, beta in whole}) > 3
    assert all(each.streamed == each.fields["stream"] for each in requests)
    assert {each.kind for each in requests if each.streamed} == {
        "streamed", "stream closed", "schema streamed", "bad streamed",
    }  # fmt: skip
    assert len({(each.prompt, each.beta) for each in map(plain, range(40))}) == 40


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost:1", "http://[::1]:8000", "http://127.8.8.8:9/"]
)
def test_a_server_of_this_machine(url):
    assert load_server.loopback(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:8000", "http://example.org", "https://127.0.0.1", "8000", "http://[::"]
)
def test_no_other_machine_is_asked(url, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["load_server.py", "--url", url])
    with pytest.raises(SystemExit):
        load_server.main()
    line = capsys.readouterr().err.splitlines()[-1]
    assert "argument --url: expected http:// and a host of loopback (127.0.0.1, ::1, localhost), got" in line
    assert url in line


KILLED = {"hung": 0, "last_failed_s": 0.2, "in_flight_failed": 16, "exit_status": 0}
ROWS = {"rows": 40, "lines": 40, "equal": 40, "naive": 10, "naive_equal": 10}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, None),
        ({"hung": 1}, "1 requests hang"),
        ({"last_failed_s": 5.5}, "the last request in flight failed after 5.5 s"),
        ({"in_flight_failed": 0}, "no request was in flight"),
        ({"exit_status": None}, "the server goes on"),
        ({"lines": 41}, "41 lines for 40 rows"),
        ({"equal": 39}, "39 of 40 rows equal the undisturbed ones"),
        ({"naive_equal": 9}, "9 of 10 rows equal the loop's"),
    ],
    ids=["right", "hung", "late", "idle", "goes-on", "lines", "equal", "naive"],
)
def test_what_a_kill_may_not_do(change, line):
    assert tables.wrong({"engine_killed": {**KILLED, **ROWS, **change}}) == ([f"engine_killed: {line}"] if line else [])
    assert tables.wrong({"server_killed": KILLED}) == []


def test_ratios_to_the_large_model():
    figures = {"trio": 3.0, "large": 2.0, "tuned": 1.5, "base": 1.0}
    own = {name: dict.fromkeys(tables.SHOWN, figure) for name, figure in figures.items()}
    found = tables.ratios(own)
    assert found["trio of large"] == dict.fromkeys(tables.SHOWN, 1.5)
    assert found["three alone of large"] == {"engine_cpu_ms": 2.25}
    assert tables.ratios({"trio": own["trio"]}) == {}
    (table,) = tables.show({"figures": {"64": own}})
    assert list(table.columns[-1].cells)[-2:] == ["1.50x", "2.25x"]
