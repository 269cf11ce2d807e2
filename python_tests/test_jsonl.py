"""Files that a user hands in: every complaint names the file, the line and the key."""

import gzip
import json

import pytest

from eft_ext._json import dumps
from eft_ext._jsonl import parse_object, read_lines, read_object
from eft_ext.analysis.dataset import read_items
from eft_ext.dynamics import ProbeSet

WRONG = {
    ", line 2, key 'text': expected text, got a byte that is not UTF-8, 0xe9, at character 4": (
        b'{"b": 1}\n{"text": "caf\xe9"}'
    ),
    ", line 1, key 'a[1].b': expected text, got a lone surrogate, U+D800, at character 2": (
        b'{"a": [1, {"b": "x\\ud800"}]}'
    ),
    ", line 1, key '': expected text, got a byte that is not UTF-8, 0xff, at character 2": b'{"a\xff": 1}',
    ", line 1: not JSON (Expecting property name enclosed in double quotes at character 2)": b"{\xff: 1}",
    ", line 1: not JSON (Expecting value at character 1)": b"\xff\xfe{\0",
    ", line 3: expected a JSON object, got list": b'{"a": 1}\n\n[1]\n',
    ", line 1: expected JSON of at most 100 levels, got thousands": b'{"a": ' + b"[" * 100_000,
    ", line 1, key 'a': expected JSON of at most 100 levels, got more": b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}",
    ", line 1, key 'a[0]': expected a number of 64 bits at most, got one of 1329": (
        b'{"a": [' + str(10**400).encode() + b"]}"
    ),
    ", line 1: not JSON that Python reads (Exceeds the limit (4300 digits)": b'{"a": ' + b"1" * 5000 + b"}",
    ": expected one JSON object in each line, got an empty file": b" \n\n",
    ", line 1: the gzip is cut short or broken (": gzip.compress(b'{"a": 1}\n')[:15],
    ", line 1: the gzip is cut short or broken (Error": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff garbage",
    ", line 2: the gzip is cut short or broken (Not a gzipped file (b'ju'))": gzip.compress(b'{"a": 1}\n') + b"junk",
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_lines_are_named(message, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(WRONG[message])
    with pytest.raises(ValueError) as found:  # noqa: PT011
        list(read_lines(file))
    assert str(found.value).startswith(f"{file}{message}")


LINES = '{"text": "a\u2028b\x85c"}\r\n\n{"text": "\U0001f600"}'
AS_BYTES = {
    "plain": LINES.encode(),
    "with a byte order mark": b"\xef\xbb\xbf" + LINES.encode(),
    "escaped": b'{"text": "a\\u2028b\\u0085c"}\n \t\n{"text": "\\ud83d\\ude00"}\n',
    "gzip": gzip.compress(LINES.encode()),
}


@pytest.mark.parametrize("form", AS_BYTES)
def test_lines_end_with_a_line_feed_alone(form, tmp_path):
    """JSON may hold the other characters that str.splitlines() takes for ends of lines."""
    file = tmp_path / "x.jsonl"
    file.write_bytes(AS_BYTES[form])
    found = list(read_lines(file))
    assert [(line.number, line.object) for line in found] == [
        (1, {"text": "a\u2028b\x85c"}),
        (3, {"text": "\U0001f600"}),
    ]
    assert found[1].where == f"{file}, line 3"


def test_every_reader_reads_so(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(gzip.compress(b'\xef\xbb\xbf{"prompt": "a", "response": "b\xe2\x80\xa8c"}\n'))
    assert read_items(file)[0].response == ProbeSet.from_jsonl(file)[0].responses["response"] == "b\u2028c"


def test_all_levels_that_are_read_are_written(tmp_path):
    deepest = '{"a": ' + "[" * 99 + "]" * 99 + "}"
    assert dumps(parse_object("x", deepest)) == deepest


def test_an_object(tmp_path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"a": [1]}, indent=2), encoding="utf-8-sig")
    assert read_object(file) == {"a": [1]}
    file.write_text("[]")
    with pytest.raises(ValueError, match=r"x\.json: expected a JSON object, got list"):
        read_object(file)
