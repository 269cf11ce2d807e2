"""Rows beyond a model's positions: refused where they stand in a table, else warned of once a call."""

import warnings

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState

from eft_ext.dynamics import (
    DynamicsCallback,
    Pairs,
    Probe,
    ProbeSet,
    Responses,
    decompose,
    delta,
    kernel_norms,
    own_responses,
    track,
    verify,
)
from eft_ext.hf import ContextWarning
from python_tests.dynamics.conftest import VOCAB, build

SHORT = Responses.from_ids([([1, 2], [3]), ([1], [2, 3])])
LONG = Responses.from_ids([([1, 2], [3]), ([1] * 30, [2] * 3)])  # of 32 positions


class Numbers:
    """Texts of numbers, each a token."""

    eos_token_id = pad_token_id = 0
    all_special_ids = (0,)

    def __call__(self, texts, add_special_tokens=True):
        from types import SimpleNamespace

        return SimpleNamespace(input_ids=[[int(x) for x in text.split()] for text in texts])

    def decode(self, ids, skip_special_tokens=False):
        return "".join(f" {i}" for i in ids)


def recorded(model, responses, path):
    pytest.importorskip("pyarrow")
    rows = [ids[keep].tolist() for ids, keep in zip(responses.ids, responses.attention, strict=True)]
    texts = [(" ".join(map(str, row[:-1])), f" {row[-1]}") for row in rows]
    probes = ProbeSet(tuple(Probe(prompt, {"chosen": text}) for prompt, text in texts))
    return list(track([None], model, probes, Numbers(), path, end=False))


def answered(model, path, new=4):
    """Prompts of 2 and 30 tokens: the second needs 33 positions with its answer, whose last token is not read."""
    model.generation_config.eos_token_id = None
    probes = ProbeSet(tuple(Probe(" ".join(["1"] * n), {"chosen": " 1"}) for n in (2, 30)))
    return own_responses(model, Numbers(), probes, max_new_tokens=new)


def called_back(model, path):
    pytest.importorskip("pyarrow")
    probes = ProbeSet(tuple(Probe(" ".join(["1"] * n), {"chosen": " 1 1 1"}) for n in (2, 30)))
    callback = DynamicsCallback(probes, path, tokenizer=Numbers(), end=False)
    callback.on_train_begin(None, TrainerState(), TrainerControl(), model=model)


WAYS = {
    "answers": answered,
    "callback": called_back,
    "observed": lambda model, path: decompose(model, LONG, SHORT),
    "update": lambda model, path: decompose(model, SHORT, LONG),
    "verify": lambda model, path: verify(model, LONG, SHORT),
    "delta": lambda model, path: delta(model, model, LONG),
    "kernel": lambda model, path: kernel_norms(model, LONG, SHORT, samples=2),
    "reference": lambda model, path: Pairs(SHORT, LONG).with_reference(model),
    "track": lambda model, path: recorded(model, LONG, path),
}
PLACES = {"verify": "observed", "kernel": "observed", "delta": "responses", "reference": "responses"}


WHERE = {"track": "probe 1, chosen", "callback": "probe 1, chosen", "answers": "probe 1"}
WHERE |= {"reference": "responses, row 3"}


@pytest.mark.parametrize("way", WAYS)
def test_a_table_is_not_overrun(way, tmp_path):
    model = build("gpt2")
    model.register_forward_pre_hook(lambda *read: pytest.fail("it is read"))
    row = WHERE.get(way, f"{PLACES.get(way, way)}, row 1")
    name = "tuned" if way == "delta" else "model"
    with pytest.raises(ValueError, match=f"^{row}: the text needs 33 positions, but {name} has a table of 32$"):
        WAYS[way](model, tmp_path / "run")


@pytest.mark.parametrize("way", WAYS)
def test_one_warning_a_call(way, tmp_path):
    model = build("llama", max_position_embeddings=32)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        WAYS[way](model, tmp_path / "run")
    lines = [str(each.message) for each in found if issubclass(each.category, ContextWarning)]
    assert len(lines) == 1
    assert f"{WHERE.get(way, 'row 1')}: 33" in lines[0]
    assert lines[0].endswith(", made for 32 positions")


@pytest.mark.parametrize("new", [1, 3])
def test_answers_that_fill_the_table(new):
    assert [len(text.split()) for text in answered(build("gpt2"), None, new)] == [new, new]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "answers"])
def test_tokens_of_another_tokenizer(way, tmp_path):
    """A model of 3 tokens, 0 to 2, is given texts that have 3."""
    model = build("llama")
    model.resize_token_embeddings(3)
    model.register_forward_pre_hook(lambda *read: pytest.fail("it is read"))
    name = "tuned" if way == "delta" else "model"
    message = f"expected tokens of the model's own tokenizer, below the 3 that {name} has, got 3$"
    if way == "callback":
        probes = ProbeSet((Probe("1", {"chosen": " 2"}), Probe("1", {"chosen": " 3"})))
        callback = DynamicsCallback(probes, tmp_path / "run", tokenizer=Numbers(), end=False)
        with pytest.raises(ValueError, match=f"^probe 1, chosen: {message}"):
            callback.on_train_begin(None, TrainerState(), TrainerControl(), model=model)
        return
    with pytest.raises(ValueError, match=message):
        WAYS[way](model, tmp_path / "run")


def test_a_padding_token_that_the_model_has_not():
    """A tokenizer was given one, and the model was not resized."""
    tokenizer = Numbers()
    tokenizer.pad_token_id = VOCAB
    texts = [("1 2", " 3"), ("1 2 3 4", " 5 6")]
    responses = Responses.from_text(tokenizer, texts)
    assert decompose(build("llama"), responses, responses).change.isfinite().all()


def test_a_module_without_a_configuration():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(VOCAB, VOCAB)

        def forward(self, ids):
            return self.table(ids)

    torch.manual_seed(0)
    assert decompose(Plain(), LONG, SHORT).change.isfinite().all()


def test_rows_know_their_line(tmp_path):
    file = tmp_path / "probes.jsonl"
    file.write_text('\n{"prompt": "1 2", "chosen": " 3", "other": " 4"}\n')
    assert ProbeSet.from_jsonl(file).encode(Numbers(), end=False).where == (f"{file}, line 2",) * 2
