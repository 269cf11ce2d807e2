"""Weights of one model replaced while the engine runs: greedy tokens against a naive loop over the new weights."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from eft_ext.demo import checkpoint_path, model_path
from python_tests.helpers.naive import greedy, load, up_scaled

ROLES = ("large", "tuned", "base")
COUNT = 24
PROMPT = "Once there was a mayor who kept a lantern in the tower and a goat in the yard, and every morning at the bell "


@pytest.fixture(scope="module")
def trio() -> str:
    return str(checkpoint_path())


@pytest.fixture(scope="module")
def prompts(trio: str) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(trio)
    texts = (PROMPT * 3, "Question: What does the town of Tonin trade in?\nAnswer:", "The ship was commanded by")
    return [tokenizer(text).input_ids for text in texts]


@pytest.fixture(scope="module")
def wanted(prompts: list[list[int]]) -> dict[str, list[list[int]]]:
    large, base = (load(Path(model_path(name)).parent, [name])[0] for name in ("large-base", "small-base"))
    found = {}
    for name in ("small-tuned", "small-talkative"):
        tuned = load(Path(model_path(name)).parent, [name])[0]
        found[name] = [greedy([large, tuned, base], up_scaled(1.0), ids, COUNT) for ids in prompts]
    assert found["small-tuned"] != found["small-talkative"]
    return found


@pytest.fixture(scope="module")
def engine(start: Callable[..., Any], trio: str) -> Any:
    return start(trio, weight_transfer_config={"backend": "eft_folder"}, enable_prefix_caching=True)


def texts(engine: Any, prompts: list[list[int]]) -> tuple[list[list[int]], int]:
    from vllm import SamplingParams

    greedily = SamplingParams(temperature=0, max_tokens=COUNT)
    found = engine.generate([{"prompt_token_ids": ids} for ids in prompts], greedily, use_tqdm=False)
    return [list(each.outputs[0].token_ids) for each in found], sum(each.num_cached_tokens or 0 for each in found)


def replace(engine: Any, model: str, folder: str) -> None:
    engine.start_weight_update()
    engine.update_weights({"update_info": {"model": model, "folder": folder}})
    engine.finish_weight_update()


def test_one_models_weights_are_replaced_and_back(engine: Any, prompts: Any, wanted: Any) -> None:
    assert texts(engine, prompts)[0] == wanted["small-tuned"]
    assert texts(engine, prompts)[1] > 0  # the prefixes of the first pass
    for name in ("small-talkative", "small-tuned"):
        replace(engine, "tuned", str(model_path(name)))
        assert engine.reset_prefix_cache(reset_running_requests=True)
        assert texts(engine, prompts) == (wanted[name], 0)


def test_a_request_that_runs_meanwhile_goes_on_with_the_new_weights(engine: Any, prompts: Any, wanted: Any) -> None:
    from vllm import SamplingParams

    llm = engine.llm_engine
    llm.add_request("one", {"prompt_token_ids": prompts[1]}, SamplingParams(temperature=0, max_tokens=COUNT))
    outputs = [llm.step() for _ in range(5)]
    before = max((list(out.outputs[0].token_ids) for step in outputs for out in step), key=len)
    replace(engine, "tuned", str(model_path("small-talkative")))
    assert engine.reset_prefix_cache(reset_running_requests=True)
    while llm.has_unfinished_requests():
        outputs.append(llm.step())
    got = list(outputs[-1][0].outputs[0].token_ids)
    folder = Path(model_path("large-base")).parent
    models = load(folder, ["large-base", "small-talkative", "small-base"])
    assert any(
        got == got[:n] + greedy(models, up_scaled(1.0), prompts[1] + got[:n], COUNT - n)
        for n in range(len(before), len(before) + 2)
    )
    assert got[: len(before)] == wanted["small-tuned"][1][: len(before)]
    replace(engine, "tuned", str(model_path("small-tuned")))
    engine.reset_prefix_cache()


@pytest.mark.parametrize(
    ("model", "folder", "said"),
    [
        ("tuned", "large-base", "expected lm_head.weight|expected model.embed_tokens.weight of tuned's shape"),
        ("large", "small-tuned", "of large's shape"),
        ("other", "small-tuned", "model: expected one of large, tuned, base, got 'other'"),
        ("tuned", "nowhere", "folder: expected one with safetensors"),
    ],
    ids=["another-shape", "a-smaller-one", "no-model", "no-folder"],
)
def test_what_does_not_fit_is_refused_and_the_old_weights_serve_on(
    engine: Any, prompts: Any, wanted: Any, model: str, folder: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / folder if folder == "nowhere" else model_path(folder)
    with pytest.raises(ValueError, match=said):
        replace(engine, model, str(path))
    assert texts(engine, prompts)[0] == wanted["small-tuned"]


@pytest.mark.parametrize("fault", ["truncated", "a-tensor-missing"])
def test_a_half_written_folder_is_refused(engine: Any, prompts: Any, wanted: Any, fault: str, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    shutil.copytree(model_path("small-talkative"), folder)
    file = folder / "model.safetensors"
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    else:
        tensors = load_file(file)
        tensors.pop("model.layers.0.mlp.up_proj.weight")
        save_file(tensors, file)
    with pytest.raises(ValueError, match="folder: "):
        replace(engine, "tuned", str(folder))
    assert texts(engine, prompts)[0] == wanted["small-tuned"]


def test_all_weights_come_from_another_checkpoint(engine: Any, prompts: Any, wanted: Any, tmp_path: Path) -> None:
    shutil.copytree(checkpoint_path(), tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "small-tuned")
    shutil.copytree(model_path("small-talkative"), tmp_path / "other" / "small-tuned")
    for folder, name in ((tmp_path / "other", "small-talkative"), (checkpoint_path(), "small-tuned")):
        engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        assert engine.reset_prefix_cache()
        assert texts(engine, prompts)[0] == wanted[name]
