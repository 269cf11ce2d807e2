"""Checkpoints that name hub ids, and checkpoints on the hub: a cache stands for it, and there is no network."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from eft_ext.hf import EmulatedForCausalLM, EmulatedModel
from eft_ext.hf.checkpoint.pack import pack
from eft_ext.methods import UpScale

COMMITS = {name: letter * 40 for name, letter in {"large": "a", "tuned": "b", "base": "c", "trio": "d"}.items()}
CALL = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Offline, as HF_HUB_OFFLINE makes it: transformers looks for adapters however little else it is allowed."""
    monkeypatch.setattr("socket.socket.connect", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def hub(tmp_path):
    """hub(name, folder) puts a folder into a cache, as org/name at its commit; the options that read from there."""

    def put(name, folder):
        repo = tmp_path / "hub" / f"models--org--{name}"
        shutil.copytree(folder, repo / "snapshots" / COMMITS[name])
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(COMMITS[name])
        return f"org/{name}"

    put.options = {"cache_dir": str(tmp_path / "hub"), "local_files_only": True}
    return put


@pytest.fixture
def referenced(hub, trio_folders, tmp_path):
    sources = {name: hub(name, folder) for name, folder in trio_folders.items()}
    pack(tmp_path / "packed", sources, UpScale(), weights="reference", **hub.options)
    return tmp_path / "packed"


def test_a_checkpoint_of_a_few_kilobytes(referenced, hub, trio_folders, ragged):
    config = json.loads((referenced / "config.json").read_text())
    assert config["weights"] == {
        name: {"hub": f"org/{name}", "revision": COMMITS[name]} for name in ("large", "tuned", "base")
    }
    files = [file for file in referenced.rglob("*") if file.is_file() and not file.name.startswith("tokenizer")]
    assert sum(file.stat().st_size for file in files) < 8192
    ids, mask = ragged
    expected = EmulatedModel.from_pretrained(**trio_folders, quiet=True).generate(ids, attention_mask=mask, **CALL)
    for load in (EmulatedModel.from_pretrained, AutoModelForCausalLM.from_pretrained):
        model = load(referenced, **hub.options)
        assert torch.equal(model.generate(ids, attention_mask=mask, **CALL), expected)


def test_the_revision_stays(referenced, hub, tmp_path):
    """A model that moves on is read as it was packed."""
    repo = tmp_path / "hub" / "models--org--tuned"
    shutil.copytree(repo / "snapshots" / COMMITS["tuned"], repo / "snapshots" / ("e" * 40))
    (repo / "refs" / "main").write_text("e" * 40)
    weights = repo / "snapshots" / ("e" * 40) / "model.safetensors"
    weights.write_bytes(b"")
    assert EmulatedModel.from_pretrained(referenced, quiet=True, **hub.options).tuned.num_parameters() > 0


def test_a_model_that_is_gone(referenced, hub, tmp_path):
    shutil.rmtree(tmp_path / "hub" / "models--org--base")
    for load in (EmulatedModel.from_pretrained, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(ValueError, match=r"^base: cannot read 'org/base': ") as error:
            load(referenced, **hub.options)
        assert "\n" not in str(error.value)


def test_a_checkpoint_on_the_hub(hub, packed, ragged):
    ids, mask = ragged
    expected = EmulatedModel.from_pretrained(packed, quiet=True).generate(ids, attention_mask=mask, **CALL)
    name = hub("trio", packed)
    assert AutoConfig.from_pretrained(name, **hub.options).mixing_method.beta == 0.5
    for load in (
        EmulatedModel.from_pretrained,
        AutoModelForCausalLM.from_pretrained,
        EmulatedForCausalLM.from_pretrained,
    ):
        model = load(name, **hub.options)
        assert torch.equal(model.generate(ids, attention_mask=mask, **CALL), expected)
        assert model.generation_config.eos_token_id == 2


def test_copies_from_the_hub(hub, trio_folders, packed, tmp_path):
    sources = {name: hub(name, folder) for name, folder in trio_folders.items()}
    pack(tmp_path / "copied", sources, UpScale(0.5), **hub.options)
    one, two = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "copied", packed)
    )
    assert one == two
    assert not any(file.is_symlink() for file in (tmp_path / "copied").rglob("*"))
    with pytest.raises(ValueError, match=r"^weights: expected folders to link, got the hub id 'org/large' for large"):
        pack(tmp_path / "linked", sources, UpScale(), weights="link", **hub.options)
    with pytest.raises(ValueError, match=r"^large: cannot read 'org/none'"):
        pack(tmp_path / "none", {**sources, "large": "org/none"}, UpScale(), **hub.options)


def test_pushing(packed, monkeypatch):
    """The files of a push, models in their folders, as transformers collects them."""
    pushed = {}

    def commit(hub, repo_id, operations, **_):
        pushed[repo_id] = {operation.path_in_repo for operation in operations}

    def created(hub, repo_id, **_):
        return SimpleNamespace(repo_id=repo_id)

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", commit)
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", created)
    AutoModelForCausalLM.from_pretrained(packed).push_to_hub("org/trio", create_pr=False)
    files = {f"{name}/{file}" for name in ("large", "tuned", "base") for file in ("config.json", "model.safetensors")}
    files |= {"config.json", "generation_config.json", "modeling_emulated.py", "tokenizer.json"}
    assert files <= pushed["org/trio"]


def test_pushing_what_is_saved(packed, tmp_path, monkeypatch):
    """Everything that is about the hub reaches the push."""
    asked = {}

    def push(self, repo_id, token=None, create_pr=None, revision=None, **_):
        asked.update(repo_id=repo_id, token=token, create_pr=create_pr, revision=revision)

    monkeypatch.setattr(EmulatedForCausalLM, "push_to_hub", push)
    model = AutoModelForCausalLM.from_pretrained(packed)
    model.save_pretrained(tmp_path / "pushed", push_to_hub=True, create_pr=True, revision="dev", token="t")
    assert asked == {"repo_id": "pushed", "token": "t", "create_pr": True, "revision": "dev"}
