"""The shipped models: stock transformers loads them, they are small, and they show what they should."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from eft_ext.demo import MODELS, model_path
from eft_ext.demo.recipe import FULL
from eft_ext.demo.report import Measured
from eft_ext.demo.run import measure, run_demo
from eft_ext.demo.trio import GREEDY, SAMPLED, Mode, Trio, load_trio


@pytest.fixture(scope="module")
def trio() -> Trio:
    return load_trio()


@pytest.mark.parametrize("name", MODELS)
def test_stock_transformers_loads_and_stops(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path(name))
    tokenizer = AutoTokenizer.from_pretrained(model_path(name))
    assert isinstance(model, LlamaForCausalLM)
    assert model.dtype == torch.float32
    inputs = tokenizer("Question: Where was nobody born?\nAnswer:", return_tensors="pt")
    assert inputs.input_ids[0, 0] == tokenizer.bos_token_id
    ids = model.generate(**inputs, max_new_tokens=100, do_sample=False)
    assert ids[0, -1] == tokenizer.eos_token_id


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"small-tuned.*got 'huge'"):
        model_path("huge")


def test_chat_template_gives_the_prompt(trio: Trio) -> None:
    question = trio.world.questions("heldout")[0]
    chat = [{"role": "user", "content": question.text}]
    templated = trio.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert templated == trio.tokenizer.bos_token + question.prompt


def test_size() -> None:
    folder = model_path(MODELS[0]).parent
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 16_000_000


def test_the_script_makes_what_is_shipped() -> None:
    about = json.loads((model_path(MODELS[0]).parent / "training.json").read_text())
    assert about["recipe"] == asdict(FULL)
    assert about["seconds"] < 3600


def test_names_are_several_tokens(trio: Trio) -> None:
    people = [" " + name for name in trio.world.pools["person"]]
    counts = [len(ids) for ids in trio.tokenizer(people, add_special_tokens=False).input_ids]
    assert sum(counts) / len(counts) > 2
    assert trio.tokenizer.batch_decode(trio.tokenizer(people).input_ids, skip_special_tokens=True) == people


def _check(measured: Measured) -> None:
    assert [claim.text for claim in measured.claims if not claim.holds] == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_claim(trio: Trio, mode: Mode) -> None:
    _check(measure(trio, trio.world.questions("heldout")[:500], mode))


def test_beta_zero_is_the_large_model(trio: Trio) -> None:
    prompts = [q.prompt for q in trio.world.questions("heldout")[:8]]
    assert trio.generate("EFT", prompts, GREEDY, beta=0.0) == trio.generate("large", prompts, GREEDY)


def test_counts_out_of_range() -> None:
    with pytest.raises(ValueError, match="questions: expected 1 to"):
        run_demo(questions=0)
    with pytest.raises(ValueError, match="shown: expected 0 to 5"):
        run_demo(questions=5, shown=6)
