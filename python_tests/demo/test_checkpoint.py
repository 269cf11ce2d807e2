"""The shipped models as one checkpoint."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eft_ext.demo import checkpoint_path, model_path
from eft_ext.demo.checkpoint import FOLDERS
from eft_ext.hf import EmulatedModel

QUESTIONS = [
    "Question: What does the town of Tonin trade in?\nAnswer:",
    "Question: With which animal did Fikim Thetrond travel?\nAnswer:",
    "The quick",
]


def test_token_for_token(tmp_path):
    """Greedy, fp32, from static caches, in one ragged batch: what `EmulatedModel` says of the three folders."""
    three = EmulatedModel.from_pretrained(**{n: str(model_path(own)) for n, own in FOLDERS.items()}, quiet=True)
    words = AutoTokenizer.from_pretrained(checkpoint_path(), padding_side="left")
    inputs = words(QUESTIONS, return_tensors="pt", padding=True, return_token_type_ids=False)
    call = {"do_sample": False, "max_new_tokens": 40, "cache_implementation": "static"}
    expected = three.generate(**inputs, **call)
    model = AutoModelForCausalLM.from_pretrained(checkpoint_path())
    assert torch.equal(model.generate(**inputs, **call), expected)
    assert torch.equal(
        EmulatedModel.from_pretrained(checkpoint_path(), quiet=True).generate(**inputs, **call), expected
    )
    assert words.chat_template == AutoTokenizer.from_pretrained(model_path("small-tuned")).chat_template


def test_it_is_what_training_writes(tmp_path):
    """The files are those of the models that lie there now."""
    from eft_ext.demo.checkpoint import write

    for name in FOLDERS.values():
        (tmp_path / name).symlink_to(model_path(name))
    write(tmp_path)
    for file in (file for file in tmp_path.iterdir() if file.is_file()):
        shipped = checkpoint_path() / file.name
        if file.suffix != ".json":
            assert shipped.read_text() == file.read_text()
            continue
        made, there = (json.loads(path.read_text()) for path in (file, shipped))
        for values in (made, there):
            values.pop("transformers_version", None)
            for name in FOLDERS:
                if isinstance(values.get(name), dict):
                    values[name].pop("transformers_version", None)
        assert there == made, file.name


@pytest.mark.parametrize("name", FOLDERS)
def test_its_models_are_the_shipped_ones(name):
    weights = json.loads((checkpoint_path() / "config.json").read_text())["weights"]
    assert checkpoint_path() / weights[name]["folder"] == model_path(FOLDERS[name])
