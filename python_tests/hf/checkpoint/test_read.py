"""Checkpoints that are not what they were: one line that names what is wrong, before weights are read."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig

from eft_ext.hf import EmulatedConfig, EmulatedForCausalLM, EmulatedModel
from eft_ext.hf.checkpoint.pack import pack
from eft_ext.methods import Amplify, Interpolate, Plain, UpScale, Weighted
from python_tests.helpers.untrusted_folders import with_config_code


def edited(file, **changes):
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def lost(folder):
    shutil.rmtree(folder / "tuned")


SPOILED = {
    "a role is missing": (lost, "tuned: expected config.json in .*tuned, found none; pack the checkpoint again"),
    "a newer format": (
        lambda folder: edited(folder / "config.json", emulated_version=3),
        "emulated_version: expected 2 or less, got 3; a newer eft_ext wrote it",
    ),
    "another model": (
        lambda folder: edited(folder / "tuned/config.json", hidden_size=32),
        "tuned: expected the configuration that .*trio' was packed with, hidden_size 16, got 32 in .*; pack it again",
    ),
    "another configuration": (
        lambda folder: edited(folder / "config.json", base=json.loads((folder / "large/config.json").read_text())),
        "base: expected the configuration that .*trio' was packed with, head_dim 8, got 4 in ",
    ),
    "no version": (
        lambda folder: edited(folder / "config.json", emulated_version=0),
        "emulated_version: expected 2 or less, got 0",
    ),
    "places that are none": (
        lambda folder: edited(folder / "config.json", weights=[1]),
        r"weights: expected where each model's are, by name, got \[1\]",
    ),
    "a model that is a number": (
        lambda folder: edited(folder / "config.json", large=3),
        "large: expected its configuration, got 3",
    ),
    "an unknown method": (
        lambda folder: edited(folder / "config.json", method={"name": "Magic"}),
        "method: expected one of Amplify, .*, got 'Magic'",
    ),
    "no configuration of a model": (
        lambda folder: edited(folder / "config.json", base=None),
        "base: expected its configuration, got none",
    ),
    "no place": (
        lambda folder: edited(folder / "config.json", weights={"large": {"folder": "large"}}),
        'weights: expected {"folder": ...} or {"hub": ..., "revision": ...} for tuned, got None',
    ),
    "a place elsewhere": (
        lambda folder: edited(folder / "config.json", weights={"large": {"folder": "../models"}}),
        "weights: expected a folder inside the checkpoint for large, got '../models'",
    ),
    "a place that is no hub id": (
        lambda folder: edited(folder / "config.json", weights={"large": {"hub": "/models/large"}}),
        "weights: expected a hub id for large, got '/models/large'",
    ),
    "broken settings": (
        lambda folder: (folder / "generation_config.json").write_text("{"),
        ".*generation_config.json",
    ),
    "no token": (
        lambda folder: edited(folder / "generation_config.json", eos_token_id="x"),
        ".*generation_config.json, key 'eos_token_id': ",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
@pytest.mark.parametrize(
    "load", [EmulatedModel.from_pretrained, AutoModelForCausalLM.from_pretrained], ids=["own", "auto"]
)
def test_one_line(name, load, packed):
    spoil, said = SPOILED[name]
    spoil(packed)
    with pytest.raises(ValueError, match=said) as error:
        load(packed)
    assert "\n" not in str(error.value)


def test_options_that_do_not_fit(packed):
    for said, options in {
        "method: expected one of large, tuned, base, which .*trio' holds, got Plain()": {"method": Plain()},
        "trust_model_code: expected names among large, tuned, base, got 'small'": {"trust_model_code": "small"},
        "beta: expected nothing beside scale": {"beta": 1.0, "scale": 1.0},
    }.items():
        for load in (EmulatedModel.from_pretrained, EmulatedForCausalLM.from_pretrained):
            with pytest.raises(ValueError, match=said.replace("()", r"\(\)")):
                load(packed, **options)


def test_options(packed, ragged):
    ids, mask = ragged
    model = AutoModelForCausalLM.from_pretrained(packed, scale=1.5, dtype={"large": torch.bfloat16})
    assert repr(model.models.method) == repr(Amplify(1.5))
    assert [child.dtype for child in model.children()] == [torch.bfloat16, torch.float32, torch.float32]
    assert model.dtype == torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(packed, method=UpScale(0.0), attn_implementation={"large": "eager"})
    assert [child.config._attn_implementation for child in model.children()] == ["eager", "sdpa", "sdpa"]
    alone = AutoModelForCausalLM.from_pretrained(packed / "large")
    expected = alone(ids, attention_mask=mask).logits[..., :264]
    assert torch.allclose(model(ids, attention_mask=mask).logits[mask > 0], expected[mask > 0], atol=1e-5)
    config = AutoConfig.from_pretrained(packed)
    config.method = {"name": "UpScale", "beta": 2.0}
    assert EmulatedForCausalLM.from_pretrained(packed, config=config).models.method.beta == 2.0
    settings = GenerationConfig(max_new_tokens=3)
    for load in (EmulatedModel.from_pretrained, AutoModelForCausalLM.from_pretrained):
        assert load(packed, generation_config=settings).generation_config.max_new_tokens == 3
    model = EmulatedModel.from_pretrained(packed, tokenizer=str(packed / "tuned"), quiet=True)
    assert model.generate_text("ab", max_new_tokens=2) == model.generate_text(["ab"], max_new_tokens=2)
    with pytest.raises(ValueError, match=r"^tokenizer: no such folder: \./gone"):
        EmulatedModel.from_pretrained(packed, tokenizer="./gone")
    model, info = AutoModelForCausalLM.from_pretrained(packed, output_loading_info=True)
    assert not any(info.values())


def test_a_models_own_code_runs_where_it_is_named(trio_folders, tmp_path):
    sources = {name: shutil.copytree(folder, tmp_path / name) for name, folder in trio_folders.items()}
    mark = tmp_path / "mark"
    with_config_code(sources["tuned"], mark)
    with pytest.raises(ValueError, match=r"^tuned: cannot read .*code of its own"):
        pack(tmp_path / "packed", sources, UpScale())
    assert not mark.exists()
    pack(tmp_path / "packed", sources, UpScale(), trust_remote_code={"tuned": True})
    assert mark.exists()
    for trust in ({}, {"trust_remote_code": True}, {"trust_model_code": "large"}):
        mark.unlink(missing_ok=True)
        for load in (EmulatedModel.from_pretrained, AutoModelForCausalLM.from_pretrained):
            with pytest.raises(ValueError, match=r"^tuned: .*code of its own.*trust_model_code='tuned' lets it run"):
                load(tmp_path / "packed", **trust)
        assert not mark.exists(), trust
    for trust in ("tuned", ["tuned"], "large tuned"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "packed", trust_model_code=trust)
        assert type(model.tuned).__name__ == "Model"


def test_names_that_configurations_have(build, tmp_path):
    config = build("llama", 1, 16, 264).config
    names = ["hidden_size", "dtype", "models", "config", "training", "tokenizer", "beta", "device", "forward", "a/b"]
    for name in (*names, "save_pretrained", "generation_config", "bos_token_id", "vocab_size", "a b", "1"):
        with pytest.raises(ValueError, match=f"^method: expected other names of models than '{name}', which "):
            EmulatedConfig(Interpolate({name: 1.0}), **{"large": config, "base": config, name: config})
        with pytest.raises(ValueError, match=f"^method: expected other names of models than '{name}', which "):
            pack(tmp_path / "x", {"large": "gone"}, Weighted({"large": 1.0, name: 1.0}))
    small = build("llama", 1, 16, 264)
    model = EmulatedModel(small, base=small, tuned={"push_to_hub": small})
    with pytest.raises(ValueError, match="^method: expected other names of models than 'push_to_hub'"):
        model.causal_lm()


CHILD = """
import sys
{before}
from transformers import {auto}
{after}
model = {auto}.from_pretrained(sys.argv[1]{trust})
print(type(model).__name__)
import transformers
print(transformers.EmulatedForCausalLM.__name__)
"""
ORDERS = {
    "eft_ext first": ("import eft_ext", "", ""),
    "a tokenizer next": ("import eft_ext; from transformers import AutoTokenizer", "", ""),
    "transformers first": ("", "import eft_ext", ""),
    "the driver first": ("from eft_ext.hf import EFTLogitsProcessor", "", ""),
    "a deep import first": ("import eft_ext.hf.loading.hub", "", ""),
    "by auto_map": ("", "", ", trust_remote_code=True"),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("auto", ["AutoModelForCausalLM", pytest.param("AutoConfig", marks=pytest.mark.slow)])
def test_registered_whoever_comes_first(order, auto, packed, tmp_path):
    before, after, trust = ORDERS[order]
    code = CHILD.format(before=before, after=after, trust=trust, auto=auto)
    if auto == "AutoConfig":
        code = code[: code.index("import transformers\n")]
    env = {**__import__("os").environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:eft_ext", "-c", code, packed],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    names = {"AutoModelForCausalLM": ["EmulatedForCausalLM"] * 2, "AutoConfig": ["EmulatedConfig"]}
    assert done.stdout.split() == names[auto]


def test_the_operations_do_not_import_transformers():
    code = "import sys, eft_ext; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_method_that_no_file_holds(llamas, tmp_path):
    """It generates in any way, and is refused when it is saved."""
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    model = EmulatedModel(*llamas, beta=[0.0, 1.0])
    call = {"num_beams": 2, "max_new_tokens": 4, "eos_token_id": 999}
    rows = [
        EmulatedModel(*llamas, beta=beta).generate(row[None], **call) for beta, row in zip((0.0, 1.0), ids, strict=True)
    ]
    assert torch.equal(model.generate(ids, **call), torch.cat(rows))
    with pytest.raises(ValueError, match=r"^beta: expected a number in a checkpoint, got one for each row"):
        model.causal_lm().save_pretrained(tmp_path / "x")
    with pytest.raises(ValueError, match=r"^config: expected the configuration of large, got none"):
        EmulatedForCausalLM(EmulatedConfig())


def test_configurations(packed):
    config = AutoConfig.from_pretrained(packed)
    again = EmulatedConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_diff_dict() == config.to_diff_dict()
    assert isinstance(EmulatedConfig(), PretrainedConfig)
    assert re.search(r'"name": "UpScale"', repr(config))
