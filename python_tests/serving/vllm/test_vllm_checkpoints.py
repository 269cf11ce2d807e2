"""Checkpoints of every kind in vLLM: linked, shared, of the hub, pickled; and files that are broken."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eft_ext.methods import UpScale
from python_tests.helpers import tiny_models
from python_tests.helpers.naive import greedy, up_scaled

pytestmark = pytest.mark.slow
PROMPTS = ([7, 8, 9], [150, 3, 20, 21])
COMMIT = "a" * 40


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    where = tmp_path_factory.mktemp("models")
    found = {name: tiny_models.save(where / name, "llama", seed) for seed, name in enumerate(UpScale.roles)}
    for folder in found.values():
        tiny_models.tokenizer().save_pretrained(folder)
    return found


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """hub(name, folder) puts a folder into a cache, as org/name; there is no network."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for module in ("transformers.utils.hub.TRANSFORMERS_CACHE", "transformers.utils.hub.constants.HF_HUB_CACHE"):
        monkeypatch.setattr(module, str(cache), raising=False)

    def put(name: str, folder: str | Path) -> str:
        repo = cache / f"models--org--{name}"
        shutil.copytree(folder, repo / "snapshots" / COMMIT)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(COMMIT)
        return f"org/{name}"

    return put


def pickled(folder: str) -> None:
    """Puts pickled weights in place of safetensors."""
    torch.save(load_file(f"{folder}/model.safetensors"), f"{folder}/pytorch_model.bin")
    Path(f"{folder}/model.safetensors").unlink()


@pytest.mark.parametrize("kind", ["linked", "shared", "pickled", "references", "on-the-hub"])
def test_outputs_are_the_naive_loops(kind: str, sources: dict[str, str], hub: Any, start: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM
    from vllm import SamplingParams

    target, given = tmp_path / "packed", dict(sources)
    read = dict(sources)
    if kind == "linked":
        tiny_models.packed(target, UpScale(1.5), given, weights="link")
    elif kind == "references":
        given = {name: hub(name, folder) for name, folder in sources.items()}
        tiny_models.packed(target, UpScale(1.5), given, weights="reference")
    elif kind == "pickled":
        shutil.copytree(sources["tuned"], tmp_path / "tuned")
        pickled(str(tmp_path / "tuned"))
        tiny_models.packed(target, UpScale(1.5), {**given, "tuned": str(tmp_path / "tuned")})
    else:
        read = given = {**given, "large": sources["base"]} if kind == "shared" else given
        tiny_models.packed(target, UpScale(1.5), given)
        assert (target / "large").exists() != (kind == "shared") or not (target / "base").exists()
    engine = start(hub("trio", target) if kind == "on-the-hub" else target)
    params = SamplingParams(temperature=0, max_tokens=12)
    found = engine.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False)
    models = [AutoModelForCausalLM.from_pretrained(read[name]).eval() for name in UpScale.roles]
    for ids, output in zip(PROMPTS, found, strict=True):
        assert list(output.outputs[0].token_ids) == greedy(models, up_scaled(1.5), ids, 12)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:4000])


def without_one(file: Path) -> None:
    weights = load_file(file)
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, file, {"format": "pt"})


def of_another_shape(file: Path) -> None:
    weights = load_file(file)
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, file, {"format": "pt"})


BROKEN = {
    "cut": (cut, r"base: cannot read weights in '.*base': "),
    "missing": (without_one, r"base: expected weights for model.layers.1.mlp.down_proj.weight, found none"),
    "no-file": (Path.unlink, r"base: cannot read weights in '.*base': Cannot find any model weights"),
    "shape": (of_another_shape, r"base.model.norm.weight: cannot be loaded: .*\[7\]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_weights_name_the_model(case: str, sources: dict[str, str], start: Any, tmp_path: Path) -> None:
    broken, line = BROKEN[case]
    folder = tiny_models.packed(tmp_path / "packed", UpScale(1.0), sources)
    broken(folder / "base" / "model.safetensors")
    with pytest.raises(Exception, match=line):
        start(folder)
