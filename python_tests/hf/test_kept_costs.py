"""The file of `speculate="auto"`: round trips, faults, processes that write at once, and what begins with it."""

import json
import subprocess
import sys

import pytest
import torch

from eft_ext import EmulatedModel
from eft_ext.hf.generation import kept_costs, speculation
from eft_ext.hf.members import Member

ENTRY = {"seconds": {"0": 1.0, "4": 1.5}, "acceptance": 0.9, "decided": 20.0, "patience": 8}
OPTIONS = {"max_new_tokens": 30, "eos_token_id": [999], "return_dict_in_generate": True}


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "costs.json"
    monkeypatch.setenv(kept_costs.FILE, str(path))
    return path


def test_round_trip(file):
    assert kept_costs.read("a") is None
    kept_costs.write("a", ENTRY)
    kept_costs.write("b", {**ENTRY, "acceptance": 0.1})
    assert kept_costs.read("a") == ENTRY
    assert kept_costs.read("b")["acceptance"] == 0.1
    for i in range(100):
        kept_costs.write(f"n{i}", ENTRY)
    assert kept_costs.read("a") is None, "the oldest make room"
    assert len(json.loads(file.read_text())) == 64


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": 1}', "[" * 99999, "\x00", '{"a": {"seconds": {"0": -1}}}'])
def test_a_broken_file_is_passed_over(file, text):
    file.parent.mkdir()
    file.write_text(text)
    assert kept_costs.read("a") is None
    kept_costs.write("a", ENTRY)
    assert kept_costs.read("a") == ENTRY


@pytest.mark.parametrize(
    "wrong",
    [
        *({"acceptance": 2}, {"acceptance": "0.9"}, {"decided": 0}, {"decided": "9"}, {"seconds": {}}),
        *({"seconds": seconds} for seconds in ({"0": 1, "x": 2}, {"0": 1e999}, {"0": "1"}, {"0": 1e-318})),
    ],
)
def test_entries_that_make_no_sense(file, wrong):
    kept_costs.write("a", {**ENTRY, **wrong})
    assert kept_costs.read("a") is None


def test_where_nothing_can_be_written(file, monkeypatch):
    file.parent.write_text("a file where the folder should be")
    kept_costs.write("a", ENTRY)
    assert kept_costs.read("a") is None
    monkeypatch.setenv(kept_costs.FILE, "")
    assert kept_costs.place() is None
    kept_costs.write("a", ENTRY)


def test_its_place(monkeypatch, tmp_path):
    monkeypatch.delenv(kept_costs.FILE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept_costs.place() == tmp_path / "eft_ext" / "speculation.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kept_costs.place() == tmp_path / ".cache" / "eft_ext" / "speculation.json"


@pytest.mark.slow
def test_two_processes(file):
    code = (
        "import sys; from eft_ext.hf.generation import kept_costs as k\n"
        f"for i in range(60): k.write(sys.argv[1] + str(i % 9), {ENTRY!r}); assert k._entries(k.place())"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "ab"]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    entries = json.loads(file.read_text())
    assert entries
    assert all(entry == ENTRY for entry in entries.values())
    assert list(file.parent.iterdir()) == [file], "nothing half written is left"


def test_the_fingerprint_tells_models_and_facts_apart(llamas):
    members = [Member(name, model) for name, model in zip(("large", "tuned", "base"), llamas, strict=True)]
    prints = [kept_costs.fingerprint(members, 1), kept_costs.fingerprint(members, 2)]
    prints.append(kept_costs.fingerprint(members[::-1], 1))
    assert len(set(prints)) == 3
    assert kept_costs.fingerprint(members, 1) == prints[0]


def test_a_configuration_of_other_keys_than_json_s(llamas, monkeypatch):
    monkeypatch.setattr(llamas[0].config, "per_layer", {1: 2, "rest": 3, (4, 5): 6}, raising=False)
    assert len(kept_costs.fingerprint([Member("large", llamas[0])], 1)) == 32


def test_auto_begins_with_what_was_kept(llamas, tokenizer, file):
    """No ordinary steps before the first draft; the same tokens."""
    model = EmulatedModel(*llamas, tokenizer)
    want = model.generate("abc", **OPTIONS).sequences
    first = model.generate("abc", speculate="auto", **OPTIONS)
    assert first.speculation.draft_lengths[0] == 0
    assert torch.equal(first.sequences, want)
    entries = json.loads(file.read_text())
    for entry in entries.values():
        entry |= {**ENTRY, "seconds": {"0": 1.0, "2": 1.2, "4": 1.5, "8": 6.0}}
    file.write_text(json.dumps(entries))
    speculation._ADAPTIVE.clear()
    again = model.generate("abc", speculate="auto", **OPTIONS)
    assert again.speculation.draft_lengths[0] == 4
    assert torch.equal(again.sequences, want)


def test_if_possible_never_warns(llamas, tokenizer, file, recwarn):
    model = EmulatedModel(*llamas, tokenizer)
    ways = ({}, {"use_cache": False}, {"output_scores": True}, {"num_beams": 2}, {"tier": "eager"})
    for options in ways:
        want = model.generate("abc", **OPTIONS, **options)
        recwarn.clear()
        got = model.generate("abc", **OPTIONS, **options, speculate=speculation.IF_POSSIBLE)
        assert torch.equal(got.sequences, want.sequences)
        assert not [w for w in recwarn if "speculate" in str(w.message)]
