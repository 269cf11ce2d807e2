"""Texts beyond what models were made for: one warning at every entry, or one error, and no table overrun."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager

import pytest
import torch
from transformers import GPTJConfig, GPTJForCausalLM, LlamaConfig, MambaConfig, MptConfig, Qwen2VLConfig

from eft_ext.hf import ContextWarning, EmulatedModel
from eft_ext.hf.inputs.context import positions_of
from eft_ext.hf.members import Member
from python_tests.helpers.ways import WAYS, greedy

MADE = 128  # positions of the models
LONG, SHORT = torch.full((1, MADE + 1), 5), torch.full((1, MADE - 3), 5)
FEW = 4  # new tokens with which a short one just fits, since the last is not read


@contextmanager
def said():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        lines: list[str] = []
        yield lines
        lines += [str(warning.message) for warning in found if issubclass(warning.category, ContextWarning)]


@pytest.mark.parametrize("way", WAYS)
def test_a_prompt_beyond_the_context(llamas, way):
    who = "tuned and base" if way == "EFTLogitsProcessor" else "large, tuned and base"  # the loop's model is its own
    with said() as lines:
        greedy(way, llamas, LONG, max_new_tokens=2)
    assert lines == [f"inputs: 129 tokens for {who}, made for 128 positions"]


@pytest.mark.parametrize("way", WAYS)
def test_a_text_that_grows_beyond_it(llamas, way):
    with said() as lines:
        greedy(way, llamas, SHORT, max_new_tokens=FEW)
    assert lines == []
    with said() as lines:
        greedy(way, llamas, SHORT, max_new_tokens=2 * FEW)
    assert len(lines) == 1
    assert lines[0].startswith("max_new_tokens: the text has come to 1")
    assert lines[0].endswith(", made for 128 positions")


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_ends_before_is_silent(llamas, way):
    new = greedy(way, llamas, SHORT, max_new_tokens=FEW)[0]
    with said() as lines:
        greedy(way, llamas, SHORT, max_new_tokens=100, eos_token_id=[new[1]])
    assert lines == []


@pytest.mark.parametrize("way", WAYS)
def test_refused_before_any_model_has_run(llamas, way, shapes_read):
    with shapes_read(llamas[1]) as shapes, warnings.catch_warnings():
        warnings.simplefilter("error", ContextWarning)
        with pytest.raises(ValueError, match="^inputs: 129 tokens"):
            greedy(way, llamas, LONG)
    assert shapes == []


def test_the_other_entries(model, shapes_read):
    text, chat = "x" * 129, [{"role": "user", "content": "x" * 129}]
    model.tokenizer = copy.deepcopy(model.tokenizer)
    model.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    entries = {
        "text": lambda: model.generate_text(text, max_new_tokens=1),
        "chat": lambda: model.generate_text(chat, max_new_tokens=1),
        "one by one": lambda: model.generate_batch([text, "x"], max_new_tokens=1, repetition_penalty=1.1),
        "as completed": lambda: next(model.generate_as_completed(["x", text], batch_size=1, max_new_tokens=1)),
    }
    for name, entry in entries.items():
        with said() as lines:
            entry()
        assert lines == ["inputs: 129 tokens for large, tuned and base, made for 128 positions"], name
        with warnings.catch_warnings(), shapes_read(model.large) as shapes:
            warnings.simplefilter("error", ContextWarning)
            with pytest.raises(ContextWarning):
                entry()
        assert shapes == [], name
    with said() as lines:
        model.plan(text, max_new_tokens=1)
    assert lines == []


def test_each_model_by_its_own_prompt(llamas):
    with said() as lines:
        EmulatedModel(*llamas).generate([[5]], prompts={"tuned": LONG, "base": LONG[:, 1:]}, max_new_tokens=1)
    assert lines == ["inputs: 129 tokens for tuned, made for 128 positions"]


def test_padding_does_not_count(llamas):
    ids, mask = torch.full((2, 140), 5), torch.ones(2, 140).long()
    mask[:, : 140 - MADE] = 0
    with said() as lines:
        EmulatedModel(*llamas).generate(ids, attention_mask=mask, max_new_tokens=1)
    assert lines == []


def made_for(config):
    model = torch.nn.Module()
    model.config = config
    return positions_of(Member("large", model))


def test_where_configurations_have_it():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}
    assert made_for(LlamaConfig(max_position_embeddings=32768, rope_parameters=yarn)) == 131072
    assert made_for(LlamaConfig(max_position_embeddings=131072, rope_parameters=yarn)) == 131072
    assert made_for(GPTJConfig(n_positions=64)) == 64
    assert made_for(MptConfig(max_seq_len=96)) == 96
    assert made_for(Qwen2VLConfig(text_config={"max_position_embeddings": 80})) == 80
    assert made_for(MambaConfig()) is None


def gptj(seed):
    torch.manual_seed(seed)
    config = GPTJConfig(vocab_size=264, n_embd=16, n_layer=1, n_head=2, n_positions=MADE, rotary_dim=4)
    return GPTJForCausalLM(config).eval()


@pytest.fixture(scope="module", params=["gpt2", "gptj"])
def tables(request, build):
    """Models that have nothing for a position beyond: learned, or sines."""
    return [gptj(seed) if request.param == "gptj" else build("gpt2", seed, 16, 264) for seed in range(3)]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "EFTLogitsProcessor"])
def test_a_table_is_not_overrun(tables, way, shapes_read):
    assert len(greedy(way, tables, SHORT, max_new_tokens=FEW)[0]) == FEW
    with pytest.raises(ValueError, match=r"^large: the sequence needs 129 positions, .* of 128; .* max_new_tokens"):
        greedy(way, tables, SHORT, max_new_tokens=2 * FEW)
    with shapes_read(tables[0]) as shapes, pytest.raises(ValueError, match="^large: the text needs 129 positions"):
        greedy(way, tables, LONG)
    assert shapes == []


def test_a_text_that_is_scored(model, shapes_read):
    """Its last token is not read."""
    with said() as lines:
        model.score(LONG)
        model.score("x" * 130)
    assert lines == ["inputs: 130 tokens for large, tuned and base, made for 128 positions"]
    with warnings.catch_warnings(), shapes_read(model.large) as shapes:
        warnings.simplefilter("error", ContextWarning)
        with pytest.raises(ContextWarning):
            model.score("x" * 130)
    assert shapes == []


def test_a_text_for_a_table(tables):
    assert EmulatedModel(*tables).score(LONG).counts.tolist() == [MADE]
    with pytest.raises(ValueError, match="^large: the text needs 129 positions, but this model has a table of 128"):
        EmulatedModel(*tables).score(torch.full((1, MADE + 2), 5))


@pytest.mark.parametrize("tier", ["eager", "static"])
def test_a_long_row_that_has_ended_takes_no_room_from_others(tables, tier):
    """Runs transformers' processors, so that the loop is Python's."""
    model, short = EmulatedModel(*tables), [7] * 10
    call = {"tier": tier, "repetition_penalty": 1.001, "pad_token_id": 0}
    alone = [
        model.generate(row, max_new_tokens=12, eos_token_id=[999], **call)[0, len(row) :].tolist()
        for row in ([7] * 10, [9] * 110)
    ]
    end = next(token for token in alone[1] if token not in alone[0])
    ids = torch.tensor([[0] * 110 + short, [0] * 10 + [9] * 110])
    out = model.generate(ids, attention_mask=(ids != 0).long(), max_new_tokens=40, eos_token_id=[end], **call)
    assert out[0, 120:132].tolist() == alone[0]
