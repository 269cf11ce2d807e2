"""Special tokens that differ: loaded, packed and saved again, and what the command line says of them."""

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from eft_ext.cli import main
from eft_ext.hf import EmulatedForCausalLM, EmulatedModel
from eft_ext.hf.checkpoint.pack import pack
from eft_ext.methods import UpScale
from eft_ext.ops.special_tokens import SpecialTokens
from python_tests.helpers.added_tokens import FIRST, trio

FOUND = SpecialTokens((257, 258, 259, 261), (262,), "tuned")
ASKED = {"<think>": "never", 258: "mix"}
OTHERS = SpecialTokens((257, 261), (259, 262), "tuned")
CALL = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": [999]}


@pytest.fixture(scope="module")
def sources(tmp_path_factory, build):
    root = tmp_path_factory.mktemp("models")
    tokenizers = trio()
    for seed, (name, ends) in enumerate({"large": [FIRST, 258], "tuned": [FIRST, 261], "base": [FIRST]}.items()):
        model = build("llama", seed, 16, 264)
        model.generation_config.eos_token_id = ends
        model.save_pretrained(root / name)
        tokenizers[name].save_pretrained(root / name)
    return {name: str(root / name) for name in tokenizers}


@pytest.fixture(scope="module")
def checkpoint(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "trio"
    pack(folder, sources, UpScale(0.5), special_tokens=ASKED)
    return folder


def added(tokenizer):
    return tokenizer.get_added_vocab()


def vocabularies(model):
    return {name: added(tokenizer) for name, tokenizer in model.tokenizers.items()}


WANTED = {name: added(tokenizer) for name, tokenizer in trio().items()}


def test_said_when_loading(sources, capsys):
    model = EmulatedModel.from_pretrained(**sources)
    said = capsys.readouterr().err
    assert "special tokens that the models do not share:\n id  large " in said
    assert "\n259  <|box|>       <think>      <|box|>       own: tuned knows it\n" in said
    assert model.special_tokens == FOUND
    assert vocabularies(model) == WANTED
    assert model.tokenizer is model.tokenizers["tuned"]
    asked = EmulatedModel.from_pretrained(**sources, special_tokens=ASKED, quiet=True)
    assert "special" not in capsys.readouterr().err
    assert asked.special_tokens == OTHERS


def test_not_compared(sources):
    model = EmulatedModel.from_pretrained(**sources, check_tokenizers=False, quiet=True)
    assert model.special_tokens is None
    assert added(model.tokenizer) == WANTED["large"]


def test_a_tokenizer_that_is_given(sources):
    given = trio()["tuned"]
    model = EmulatedModel.from_pretrained(**sources, tokenizer=given, quiet=True)
    assert model.tokenizer is model.tokenizers["tuned"] is given
    assert vocabularies(model) == WANTED


def test_packed(checkpoint, sources, capsys):
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["special_tokens"] == {"own": [257, 261], "never": [259, 262], "owner": "tuned"}
    assert config["tokenizers"] == {"large": "tokenizers/large", "base": "tokenizers/base"}
    assert config["emulated_version"] == 2
    assert config["eos_token_id"] == [256, 258, 261]
    assert added(AutoTokenizer.from_pretrained(checkpoint)) == WANTED["tuned"]
    model = EmulatedModel.from_pretrained(checkpoint)
    assert "259  <|box|>       <think>      <|box|>       never\n" in capsys.readouterr().err
    assert model.special_tokens == model.chosen().special_tokens == OTHERS
    assert vocabularies(model) == WANTED
    single = EmulatedModel.from_pretrained(**sources, beta=0.5, special_tokens=ASKED, quiet=True)
    assert model.generate_text("Hello", **CALL) == single.generate_text("Hello", **CALL)
    again = EmulatedModel.from_pretrained(checkpoint, special_tokens={259: "own"}, quiet=True)
    assert again.special_tokens == SpecialTokens((257, 259, 261), (262,), "tuned")
    mixed = dict.fromkeys((257, 259, 261, 262), "mix")
    assert EmulatedModel.from_pretrained(checkpoint, special_tokens=mixed, quiet=True).chosen().special_tokens is None


def test_ids_that_were_given_as_they_are_stay(sources, tmp_path):
    """A policy that is asked for when loading changes its own token alone."""
    given = SpecialTokens((65, 259, 261), (66,), "tuned")
    pack(tmp_path / "trio", sources, UpScale(), special_tokens=given)
    again = EmulatedModel.from_pretrained(tmp_path / "trio", special_tokens={"<think>": "mix"}, quiet=True)
    assert again.special_tokens == SpecialTokens((65, 261), (66,), "tuned")


def test_as_one_of_transformers(checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert isinstance(model, EmulatedForCausalLM)
    assert model.models.special_tokens == OTHERS
    logits = model(trio()["large"]("Hello", return_tensors="pt").input_ids).logits
    assert logits[..., [259, 262]].eq(-float("inf")).all()
    assert logits[..., [257, 258, 261]].isfinite().all()
    model.save_pretrained(tmp_path)
    saved = EmulatedModel.from_pretrained(tmp_path, quiet=True)
    assert saved.special_tokens == OTHERS
    assert vocabularies(saved) == WANTED


def test_the_command_line(checkpoint, sources, capsys, tmp_path):
    assert main(["info", str(checkpoint)]) == 0
    assert "\n261  -             </think>     <|file|>      own\n" in capsys.readouterr().out
    named = [part for name, folder in sources.items() for part in (f"--{name}", folder)]
    call = ["generate", *named, "--prompt", "Hello", "--max-new-tokens", "2"]
    assert main([*call, "--special-token", "<think>=never", "--special-token", "258=mix"]) == 0
    assert "258  <|im_end|>    <Assistant>  <|im_end|>    mix: as asked\n" in capsys.readouterr().err
    for given, said in {
        "<think>": "--special-token: expected TOKEN=POLICY, each token once, the policy mix, own or never, got '<thi",
        "<no>=own": "special_tokens['<no>']: expected a special token that differs between the models (256 <eot>, ",
    }.items():
        assert main([*call, "--special-token", given]) == 2
        assert said in capsys.readouterr().err
    assert main(["pack", *named, "-o", str(tmp_path / "new"), "--special-token", "261=never"]) == 0
    assert json.loads((tmp_path / "new/config.json").read_text())["special_tokens"]["never"] == [261, 262]


def test_scores_with_other_policies_are_not_mixed_in(sources, capsys, tmp_path):
    file, out = tmp_path / "file.jsonl", tmp_path / "out.jsonl"
    file.write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n")
    call = ["score", str(file), "--out", str(out)]
    call += [part for name, folder in sources.items() for part in (f"--{name}", folder)]
    policies = ["--special-token", "<think>=never", "--special-token", "258=mix"]
    assert main([*call, *policies]) == 0
    assert main([*call, *policies[2:], *policies[:2]]) == 0, "their order does not count"
    capsys.readouterr()
    for others in ([], policies[:2], ["--any-tokenizers"]):
        assert main([*call, *others]) == 2
        assert f"{out}, line 1: scored with other options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "special_tokens",
            {"own": ["x"]},
            r"special_tokens: expected own, never and owner, got \{'own': \['x'\]\}: own: ",
        ),
        ("special_tokens", {"mine": []}, r"special_tokens: expected own, never and owner, got \{'mine': \[\]\}: "),
        (
            "special_tokens",
            {"owner": "small"},
            r"special_tokens: .* expected an owner among large, tuned, base, got 'small'",
        ),
        ("tokenizers", ["large"], r"tokenizers: expected folders by the names large, tuned, base, got \['large'\]"),
        (
            "tokenizers",
            {"large": "../x"},
            r"tokenizers: expected a folder inside the checkpoint for large, got '\.\./x'",
        ),
        ("tokenizers", {"large": "gone"}, r"tokenizers: expected one in .*gone, found none; pack the checkpoint again"),
    ],
    ids=["no ids", "no such key", "no owner", "no folders", "outside", "gone"],
)
def test_a_broken_checkpoint(checkpoint, tmp_path, key, value, said):
    folder = shutil.copytree(checkpoint, tmp_path / "broken")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ValueError, match=said):
        EmulatedModel.from_pretrained(folder, quiet=True)
