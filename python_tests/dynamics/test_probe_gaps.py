"""Probes that lack some type: counted and said, read whole, recorded and read back."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eft_ext.dynamics import Probe, ProbeSet, Recording, delta_records, diagnose, permuted_words, track
from python_tests.dynamics.conftest import VOCAB, build

TYPES = (
    *("chosen", "chosen_initial", "chosen_selfr", "chosen_gptsemantic", "chosen_gptformat"),
    *("rejected", "reject_gptsemantic", "reject_gptformat"),
    *("irr_train", "irr_test", "irr_hum", "random_permute", "random_nonhum"),
)
# As in the authors' training file: 34 empty texts in 33 of 500 rows, the first in line 7.
EMPTY = {i: ["chosen_initial"] for i in range(6, 6 + 29 * 10, 10)}
EMPTY |= {i: ["chosen_selfr"] for i in (401, 402, 403)}
EMPTY[6] = ["chosen_initial", "chosen_selfr"]
EMPTY[400] = ["rejected"]
COUNTS = dict.fromkeys(TYPES, 500) | {"chosen_initial": 471, "chosen_selfr": 496, "rejected": 499}
SAID = "500 prompts, 6466 responses of 13 types; without chosen_initial 29, without chosen_selfr 4, without rejected 1"


@pytest.fixture
def rows():
    """Their rows: an empty text where the prompt has none of a type."""
    made = [{"prompt": f"q {i % 9}"} | {name: f" {name} {i % 7}" for name in TYPES} for i in range(500)]
    return [row | dict.fromkeys(EMPTY.get(i, ()), "") for i, row in enumerate(made)]


@pytest.fixture
def words():
    """A tokenizer of whole words."""
    known = ["</s>", "<unk>", "q", *TYPES, *map(str, range(10))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert len(known) <= VOCAB
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("read", ["jsonl", "records", "null", "missing"])
def test_an_empty_text_is_a_response_that_the_prompt_does_not_have(read, rows, tmp_path):
    assert len(EMPTY) == 33
    if read == "null":
        rows = [{key: text or None for key, text in row.items()} for row in rows]
    if read == "missing":
        rows = [{key: text for key, text in row.items() if text} for row in rows]
    probes = ProbeSet.from_records(rows) if read == "records" else ProbeSet.from_jsonl(write(tmp_path / "p", rows))
    assert probes.types == TYPES
    assert probes.counts == COUNTS
    assert str(probes) == SAID
    assert [i for i, probe in enumerate(probes) if len(probe.responses) < 13] == sorted(EMPTY)
    assert list(probes.rows())[:14][-1] == (1, "chosen", "q 1", " chosen 1")


def test_lines_with_none_of_the_types_are_left_out(rows, tmp_path):
    path = write(tmp_path / "p.jsonl", rows)
    some = ProbeSet.from_jsonl(path, types=["chosen_initial"])
    assert (len(some), some.left_out, some.counts) == (471, 29, {"chosen_initial": 471})
    assert str(some) == "471 prompts, 471 responses of 1 type; 29 left out, with none of these types"
    assert some[6].where == f"{path}, line 8"  # that of line 7 is left out
    assert ProbeSet.from_jsonl(path, types="chosen_initial") == some
    assert some.with_type("x", ["y"] * 471).left_out == 29
    assert len(ProbeSet.from_jsonl(path, types=["chosen_initial", "rejected"])) == 500
    for types, got in ((["x", "y"], "x, y"), ([], "none")):
        with pytest.raises(ValueError, match=f"^types: expected some that {path} has, got {got}$"):
            ProbeSet.from_jsonl(path, types=types)
    with pytest.raises(ValueError, match="^types: expected some that records has, got x$"):
        ProbeSet.from_records(rows, types=["x"])


def test_one_of_each():
    assert str(ProbeSet((Probe("a", {"x": "b"}),))) == "1 prompt, 1 response of 1 type"


def test_an_empty_text_in_a_probe_made_by_hand():
    with pytest.raises(ValueError, match="^probe 1, key 'rejected': expected a text, got an empty text$"):
        ProbeSet((Probe("a", {"chosen": "b"}), Probe("a", {"chosen": "b", "rejected": ""})))
    with pytest.raises(ValueError, match="^probe 0, key 'prompt': expected a text, got an empty text$"):
        ProbeSet((Probe("", {"chosen": "b"}),))
    with pytest.raises(ValueError, match="^probe 0: expected another type of response than 'prompt'$"):
        ProbeSet((Probe("a", {"chosen": "b"}),)).with_type("prompt", ["c"])


def test_builders_say_how_to_leave_a_probe_out(rows):
    probes = ProbeSet.from_records(rows)
    with pytest.raises(ValueError, match="probe 6 has none; take ProbeSet"):
        permuted_words(probes, of="chosen_initial")
    kept = ProbeSet([p for p in probes if "chosen_initial" in p.responses])
    assert len(permuted_words(kept, of="chosen_initial")) == 471


def test_recorded_and_read_back(rows, words, tmp_path):
    pytest.importorskip("pyarrow")
    read = ProbeSet.from_jsonl(write(tmp_path / "theirs.jsonl", rows))
    read.to_jsonl(tmp_path / "ours.jsonl")
    assert ProbeSet.from_jsonl(tmp_path / "ours.jsonl") == read
    model = build("llama").float()
    list(track([], model, read, words, tmp_path / "run", batch_size=500, per_token=False))
    recording = Recording(tmp_path / "run")
    assert recording.probes == read
    assert str(recording.probes) == SAID
    assert recording.table.num_rows == 6466
    assert {name: recording.curve(name).shape for name in TYPES} == {name: (1, n) for name, n in COUNTS.items()}
    assert rows[407]["prompt"] + rows[407]["rejected"] == "q 2 rejected 1"
    ids = [*words("q 2 rejected 1").input_ids, words.eos_token_id]
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    alone = sum(float(log_probs[i - 1, ids[i]]) for i in range(2, len(ids)))
    assert recording.curve("rejected")[0, 406] == pytest.approx(alone, rel=1e-4)  # behind the one without, 400


def test_a_run_without_some_rejected(words, tmp_path):
    """Every reader of a recording takes the probes that have the type."""
    pytest.importorskip("pyarrow")
    rows = [{"prompt": f"q {i}", "chosen": f" chosen {i}", "rejected": f" rejected {i}"} for i in range(5)]
    rows[0]["rejected"] = rows[3]["chosen"] = ""
    model = build("llama")
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in track(range(2), model, ProbeSet.from_records(rows), words, tmp_path / "run", every=1, lr=0.1):
        model(torch.tensor([[2, 3, 4]])).logits.log_softmax(-1)[0, 0, 3].neg().backward()
        optimiser.step()
    recording = Recording(tmp_path / "run")
    assert recording.curve("rejected").shape == (3, 4)
    both = [recording.curve(name)[-1] - recording.curve(name)[0] for name in ("chosen", "rejected")]
    found = diagnose(recording)
    assert [found.chosen.mean, found.rejected.mean] == pytest.approx([x.mean() for x in both], rel=1e-5)
    assert recording.lbk("rejected").shape == (2, 3)  # of those with both
    records = delta_records(recording, "rejected", words)
    assert [record.prompt for record in records] == ["q 1", "q 2", "q 3", "q 4"]
    sums = [sum(sum(token.attribution.values()) for token in record.tokens) for record in records]
    np.testing.assert_allclose(sums, both[1], rtol=1e-4)


def test_pictures_of_a_run_without_some_rejected(words, tmp_path):
    plots, _ = (pytest.importorskip(name) for name in ("eft_ext.dynamics.plots", "pyarrow"))
    rows = [{"prompt": "q", "chosen": " chosen", "rejected": " rejected"}, {"prompt": "q", "chosen": " chosen"}]
    list(track([None], build("llama"), ProbeSet.from_records(rows), words, tmp_path / "run", every=1))
    for kind in ("curves", "confidence", "influence"):
        plots.save(getattr(plots, kind)(Recording(tmp_path / "run")), tmp_path / f"{kind}.svg")
        assert (tmp_path / f"{kind}.svg").stat().st_size > 1000
