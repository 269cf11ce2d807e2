"""Reading probes, and making the types that need no other model."""

import json

import pytest

from eft_ext.dynamics import Probe, ProbeSet, cross_prompt, own_responses, permuted_words, random_responses

ORIGINAL = (
    *("prompt", "chosen", "chosen_initial", "chosen_selfr", "chosen_gptsemantic", "chosen_gptformat"),
    *("rejected", "reject_gptsemantic", "reject_gptformat"),
    *("irr_train", "irr_test", "irr_hum", "random_permute", "random_nonhum"),
)


def write(path, *lines):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return path


def test_the_original_keys_are_read_as_they_are(tmp_path):
    path = write(tmp_path / "p.jsonl", *({k: f"{k} {i}" for k in ORIGINAL} for i in range(3)))
    probes = ProbeSet.from_jsonl(path)
    assert probes.types == tuple(ORIGINAL[1:])
    assert probes[2] == Probe("prompt 2", {k: f"{k} 2" for k in ORIGINAL[1:]})
    assert ProbeSet.from_jsonl(path, types=["rejected"]).types == ("rejected",)


def test_other_names_missing_ones_and_the_way_back(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "a", "mine": "x"}, "", {"prompt": "b", "mine": "y", "yours": "ü"})
    probes = ProbeSet.from_jsonl(path)
    assert list(probes.rows()) == [(0, "mine", "a", "x"), (1, "mine", "b", "y"), (1, "yours", "b", "ü")]
    probes.to_jsonl(tmp_path / "q.jsonl")
    again = ProbeSet.from_jsonl(tmp_path / "q.jsonl")
    assert again == probes
    assert again.fingerprint == probes.fingerprint != probes.with_type("more", ["1", "2"]).fingerprint
    with pytest.raises(ValueError, match="probe 0 has none"):
        probes.texts("yours")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"p.jsonl, line 2: not JSON \(Expecting property name .* at character 2\)"),
        ("[1]", r"p.jsonl, line 2: expected a JSON object, got list"),
        ({"chosen": "x"}, r"p.jsonl, line 2: expected the key 'prompt', got chosen"),
        ({"prompt": "x"}, r"p.jsonl, line 2: expected at least one response beside 'prompt', got none"),
        (
            {"prompt": "x", "chosen": 3},
            r"line 2, key 'chosen': expected a text or one message of the assistant, got int",
        ),
        ({"prompt": "x", "chosen": ""}, r"p.jsonl, line 2: expected at least one response beside 'prompt', got none"),
        (
            {"prompt": "x", "a": "", "b": []},
            r"line 2, key 'b': expected a text or one message of the assistant, got an empty list",
        ),
        ({"prompt": "", "chosen": "x"}, r"p.jsonl, line 2, key 'prompt': expected a text, got an empty text"),
        ({"prompt": None, "chosen": "x"}, r"p.jsonl, line 2, key 'prompt': expected a text or messages, got NoneType"),
    ],
)
def test_errors_name_line_and_key(line, message, tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "a", "chosen": "b"}, line)
    with pytest.raises(ValueError, match=message):
        ProbeSet.from_jsonl(path)


def test_nothing_to_watch(tmp_path):
    with pytest.raises(ValueError, match="got an empty file"):
        ProbeSet.from_jsonl(write(tmp_path / "p.jsonl", ""))
    with pytest.raises(ValueError, match="probes: expected at least one"):
        ProbeSet(())
    with pytest.raises(ValueError, match="probe 0: expected at least one response"):
        ProbeSet((Probe("a", {}),))


@pytest.fixture
def probes():
    return ProbeSet(tuple(Probe(f"q{i}", {"chosen": f" one two three four {i}"}) for i in range(20)))


def test_permuted_words(probes):
    texts = permuted_words(probes)
    for text, before in zip(texts, probes.texts("chosen"), strict=True):
        assert text != before
        assert text[0] == " "
        assert sorted(text.split()) == sorted(before.split())
    assert permuted_words(probes) == texts != permuted_words(probes, seed=1)
    assert permuted_words(ProbeSet((Probe("q", {"chosen": "same same"}),))) == ["same same"]


def test_cross_prompt(probes):
    texts = cross_prompt(probes)
    before = probes.texts("chosen")
    assert sorted(texts) == sorted(before)
    assert all(a != b for a, b in zip(texts, before, strict=True))
    with pytest.raises(ValueError, match="at least 2"):
        cross_prompt(ProbeSet(probes[:1]))


def test_random_responses(probes):
    pool = probes.texts("chosen")
    texts = random_responses(probes, pool)
    assert set(texts) <= set(pool)
    assert all(a != b for a, b in zip(texts, pool, strict=True))
    with pytest.raises(ValueError, match="pool: expected a response that probe 0 has not"):
        random_responses(probes, [" one two three four 0"])


def test_with_type_is_checked(probes):
    with pytest.raises(ValueError, match="name: expected a new type, got 'chosen'"):
        probes.with_type("chosen", ["x"] * 20)
    with pytest.raises(ValueError, match="responses: expected 20"):
        probes.with_type("x", ["x"])


def test_a_sample(probes):
    some = probes.sample(7, seed=3)
    assert len(some) == 7
    assert [probe for probe in probes if probe in some.probes] == list(some.probes)  # their order, each once
    assert probes.sample(7, seed=3) == some != probes.sample(7, seed=4)
    assert probes.sample(20) == probes
    drawn = {probes.sample(1, seed=seed)[0].prompt for seed in range(200)}
    assert drawn == {f"q{i}" for i in range(20)}  # any of them, and one is missed by a chance of 0.0007
    for count in (0, 21):
        with pytest.raises(ValueError, match=f"^count: expected 1 to 20, the number of probes, got {count}$"):
            probes.sample(count)


def test_own_responses(small_base):
    model, tokenizer = small_base
    asked = ProbeSet(tuple(Probe(f"Question: {q}\nAnswer:", {"chosen": "x"}) for q in ("Who?", "Which town is it?")))
    greedy = own_responses(model, tokenizer, asked, max_new_tokens=12)
    alone = [own_responses(model, tokenizer, ProbeSet((p,)), max_new_tokens=12)[0] for p in asked]
    assert greedy == alone  # padding changes nothing
    sampled = own_responses(model, tokenizer, asked, max_new_tokens=12, seed=1)
    assert sampled == own_responses(model, tokenizer, asked, max_new_tokens=12, seed=1) != greedy
