"""eft_ext.hf.checkpoint.pack: what lies in the folder, and that it loads as the models it was made of."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import eft_ext
from eft_ext.hf import EmulatedForCausalLM, EmulatedModel
from eft_ext.hf.checkpoint.pack import pack
from eft_ext.methods import (
    Amplify,
    Conservative,
    Contrast,
    DownScale,
    Guidance,
    Interpolate,
    Plain,
    Realign,
    UpScale,
    Weighted,
)
from python_tests.helpers.slow_params import slowly_but

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft's call
METHODS = {
    "UpScale": (UpScale(0.5), {"large": "large", "tuned": "tuned", "base": "base"}),
    "Amplify": (Amplify(1.5), {"large": "large", "tuned": "tuned", "base": "base"}),
    "Conservative": (Conservative(0.9, "large", "drop"), {"large": "large", "tuned": "tuned", "base": "base"}),
    "DownScale": (DownScale(), {"small": "small", "tuned": "tuned", "base": "base"}),
    "conservative down": (
        Conservative(0.8, method=DownScale()),
        {"small": "small", "tuned": "tuned", "base": "base"},
    ),
    "Interpolate": (
        Interpolate({"polite": 0.25, "kind": 0.75}),
        {"large": "large", "polite": "tuned", "kind": "small", "base": "base"},
    ),
    "Contrast": (Contrast(0.25, 0.125), {"expert": "large", "amateur": "base"}),
    "Realign": (Realign(0.5), {"reference": "base", "aligned": "tuned"}),
    "Guidance": (Guidance(1.25), {"model": "large"}),
    "Plain": (Plain(), {"model": "large"}),
    "Weighted": (Weighted({"a": 1.0, "b": -0.5}), {"a": "large", "b": "tuned"}),
}
CALL = {"max_new_tokens": 8, "do_sample": False}


def files(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_the_folder(packed):
    config = json.loads((packed / "config.json").read_text())
    assert config["model_type"] == "emulated"
    assert config["architectures"] == ["EmulatedForCausalLM"]
    assert config["method"] == {"name": "UpScale", "beta": 0.5}
    assert config["weights"] == {name: {"folder": name} for name in ("large", "tuned", "base")}
    assert [config[name]["hidden_size"] for name in ("large", "tuned", "base")] == [32, 16, 16]
    assert (config["vocab_size"], config["hidden_size"], config["max_position_embeddings"]) == (264, 32, 128)
    own = ["config.json", "generation_config.json", "modeling_emulated.py", "tokenizer.json", "tokenizer_config.json"]
    model = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert files(packed) == sorted([*own, *(f"{n}/{file}" for n in ("large", "tuned", "base") for file in model)])
    assert (packed / "modeling_emulated.py").read_text().count("\n") == 3


@pytest.mark.parametrize("name", slowly_but(("UpScale", "Guidance", "Interpolate"), METHODS))
def test_every_method(name, folders, tmp_path, ragged):
    method, models = METHODS[name]
    sources = {role: folders[folder] for role, folder in models.items()}
    pack(tmp_path / "packed", sources, method)
    ids, mask = ragged
    one = EmulatedModel.from_pretrained(**sources, method=method, quiet=True)
    two = EmulatedModel.from_pretrained(tmp_path / "packed", quiet=True)
    three = AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    assert repr(two.method) == repr(three.models.method) == repr(method)
    expected = one.generate(ids, attention_mask=mask, **CALL)
    for again in (two, three):
        assert torch.equal(again.generate(ids, attention_mask=mask, **CALL), expected)
        assert torch.equal(again.generate(ids, attention_mask=mask, cache_implementation="static", **CALL), expected)
    three.save_pretrained(tmp_path / "saved")
    four = EmulatedForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(four.generate(ids, attention_mask=mask, **CALL), expected)
    assert len(list((tmp_path / "saved").rglob("*.safetensors"))) == len(set(models.values()))


def test_links(trio_folders, tmp_path, packed, ragged):
    pack(tmp_path / "linked", trio_folders, UpScale(0.5), weights="link")
    for name, folder in trio_folders.items():
        assert (tmp_path / "linked" / name).is_symlink()
        assert str((tmp_path / "linked" / name).resolve()) == folder
    ids, mask = ragged
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("linked", "trio"))
    assert torch.equal(one(ids, attention_mask=mask).logits, two(ids, attention_mask=mask).logits)
    inside = {name: str(tmp_path / "linked" / name) for name in trio_folders}
    pack(tmp_path / "linked", inside, UpScale(0.5), weights="link", overwrite=True)  # links to the models, not to links
    assert all(str((tmp_path / "linked" / name).resolve()) == folder for name, folder in trio_folders.items())
    before = (Path(trio_folders["tuned"]) / "model.safetensors").read_bytes()
    one.save_pretrained(tmp_path / "linked")
    assert not (tmp_path / "linked" / "tuned").is_symlink()
    assert (Path(trio_folders["tuned"]) / "model.safetensors").read_bytes() == before


def test_an_adapter_stays_one(folders, tmp_path, ragged):
    sources = {"large": folders["large"], "tuned": folders["adapter"], "base": folders["base"]}
    pack(tmp_path / "packed", sources, UpScale())
    assert (tmp_path / "packed/tuned/adapter_model.safetensors").is_file()
    assert not (tmp_path / "packed/tuned/model.safetensors").exists()
    ids, mask = ragged
    expected = EmulatedModel.from_pretrained(**sources, quiet=True).generate(ids, attention_mask=mask, **CALL)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    assert torch.equal(model.generate(ids, attention_mask=mask, **CALL), expected)
    assert model.models.members[1].model is model.models.members[2].model  # base's weights are there once
    model.save_pretrained(tmp_path / "saved")
    assert files(tmp_path / "saved" / "tuned")[:2] == ["README.md", "adapter_config.json"]
    again = EmulatedModel.from_pretrained(tmp_path / "saved", quiet=True)
    assert torch.equal(again.generate(ids, attention_mask=mask, **CALL), expected)
    keys = AutoModelForCausalLM.from_pretrained(tmp_path / "saved" / "base").state_dict().keys()
    assert keys == AutoModelForCausalLM.from_pretrained(folders["base"]).state_dict().keys()


def test_ends_template_and_settings(folders, tmp_path, tokenizer):
    """The end tokens of large and tuned, tuned's template, and the settings of the model that is named."""
    sources = {}
    for name in ("large", "tuned", "base"):
        model = AutoModelForCausalLM.from_pretrained(folders[name])
        model.generation_config.eos_token_id = {"large": 2, "tuned": [3, 2], "base": 7}[name]
        if name == "tuned":
            model.generation_config.update(do_sample=True, temperature=0.5)
        model.save_pretrained(tmp_path / name)
        words = AutoTokenizer.from_pretrained(folders[name])
        words.chat_template = {"large": "large's", "tuned": "tuned's", "base": None}[name]
        words.save_pretrained(tmp_path / name)
        sources[name] = str(tmp_path / name)
    pack(tmp_path / "one", sources, UpScale())
    pack(tmp_path / "two", sources, UpScale(), settings_from="tuned")
    one, two = (json.loads((tmp_path / name / "generation_config.json").read_text()) for name in ("one", "two"))
    assert one["eos_token_id"] == two["eos_token_id"] == [2, 3]
    assert (one.get("temperature"), two["temperature"]) == (None, 0.5)
    assert AutoTokenizer.from_pretrained(tmp_path / "one").chat_template == "tuned's"
    assert EmulatedModel.from_pretrained(**sources, quiet=True).tokenizer.chat_template == "tuned's"
    model = EmulatedModel.from_pretrained(tmp_path / "two", quiet=True)
    assert model.generation_config.temperature == 0.5
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "two").generation_config.eos_token_id == [2, 3]


def test_what_does_not_fit(trio_folders, folders, tmp_path, packed, tokenizer, build):
    few, file, new = tmp_path / "few", tmp_path / "file", tmp_path / "new"
    build("llama", 1, 16, 200).save_pretrained(few)
    tokenizer.save_pretrained(few)
    file.write_text("")
    plain = shutil.copytree(folders["small"], tmp_path / "plain")
    narrow, gone = {**trio_folders, "tuned": str(few)}, {**trio_folders, "tuned": "./gone"}
    nested = {**trio_folders, "large": str(packed)}
    inside = {**trio_folders, "large": str(packed / "large")}
    function, rows = "a function of the step", "one for each row"
    for said, (folder, sources, method, options) in {
        "folder: expected one that is not there, got ": (packed, trio_folders, UpScale(), {}),
        "folder: expected a folder, got the file ": (file, trio_folders, UpScale(), {}),
        "folder: expected another one than that of large": (packed, inside, UpScale(), {"overwrite": True}),
        "weights: expected one of copy, link, ref": (new, trio_folders, UpScale(), {"weights": "move"}),
        "weights: expected hub ids to ref": (new, trio_folders, UpScale(), {"weights": "reference"}),
        "folder: expected a checkpoint to replace, got": (plain, trio_folders, UpScale(), {"overwrite": True}),
        "settings_from: expected one of large, tuned, base": (new, trio_folders, UpScale(), {"settings_from": "small"}),
        f"beta: expected a number in a checkpoint, got {function}": (new, trio_folders, UpScale(lambda _: 1.0), {}),
        f"beta: expected a number in a checkpoint, got {rows}": (new, trio_folders, UpScale([1.0, 2.0]), {}),
        "tuned: expected logits for the tokenizer's 260 ids, got 200 columns": (new, narrow, UpScale(), {}),
        "large: expected one model, got ": (new, nested, UpScale(), {}),
        "tuned: no such folder": (new, gone, UpScale(), {}),
        "large: not a model of Realign": (new, {"large": folders["large"]}, Realign(), {}),
        "amateur: expected a hub id or a folder, got None": (new, {"expert": folders["large"]}, Contrast(), {}),
    }.items():
        with pytest.raises(ValueError, match=re.escape(said)) as error:
            pack(folder, sources, method, **options)
        assert str(error.value).startswith(said)
        assert "\n" not in str(error.value)
    assert not new.exists()
    assert not list(tmp_path.glob("*.tmp"))


def test_tokenizers_that_differ(trio_folders, folders, tmp_path):
    other = shutil.copytree(folders["small"], tmp_path / "other")
    words = json.loads((other / "tokenizer.json").read_text())
    vocab = words["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (other / "tokenizer.json").write_text(json.dumps(words))
    sources = {**trio_folders, "tuned": str(other)}
    with pytest.raises(
        ValueError, match=r"^tuned: expected the tokenizer of large .* differs in 2 ordinary ones: 'a' is "
    ):
        pack(tmp_path / "x", sources, UpScale())
    pack(tmp_path / "x", sources, UpScale(), check_tokenizers=False)
    assert EmulatedModel.from_pretrained(tmp_path / "x", quiet=True).tuned.num_parameters() > 0


def test_soft_caps_that_differ(folders, tmp_path, build, tokenizer):
    for name, cap in {"large": 5.0, "base": None}.items():
        model = build("gemma2", 1, 16, 264)
        model.config.final_logit_softcapping = cap
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    sources = {name: str(tmp_path / ("large" if name == "large" else "base")) for name in ("large", "tuned", "base")}
    with pytest.warns(UserWarning, match=r"final_logit_softcapping: large 5.0, tuned none, base none"):
        pack(tmp_path / "x", sources, UpScale())


def test_overwriting(packed, trio_folders, tmp_path):
    (packed / "tuned" / "left.json").write_text("{}")
    pack(packed, trio_folders, UpScale(2.0), overwrite=True)
    assert not (packed / "tuned" / "left.json").exists()
    assert AutoConfig.from_pretrained(packed).mixing_method.beta == 2.0
    assert [each.name for each in tmp_path.iterdir()] == ["trio"]


def test_names_at_the_top():
    assert eft_ext.EmulatedForCausalLM is EmulatedForCausalLM
    assert eft_ext.EmulatedConfig.model_type == "emulated"
