"""Options, checkpoints and models that vLLM cannot serve as one: refused in one line before weights are read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eft_ext.methods import Realign, UpScale, Weighted
from python_tests.helpers import tiny_models

pytestmark = pytest.mark.slow
REFUSED = (RuntimeError, ValueError)  # ours, and vLLM's own where it comes first


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    where = tmp_path_factory.mktemp("models")
    heads = {"large": (6, 3), "tuned": (6, 1), "base": (4, 1)}
    shapes = {
        name: {"num_attention_heads": own, "num_key_value_heads": shared, "hidden_size": 32 * own}
        for name, (own, shared) in heads.items()
    }
    return {name: tiny_models.save(where / name, "llama", 0, **shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def trio(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.packed(tmp_path_factory.mktemp("trio") / "trio", UpScale(1.0), models)


def configure(folder: str | Path, **options: Any) -> Any:
    """Makes the configuration of an engine, its first step; reads no weights."""
    from vllm.engine.arg_utils import EngineArgs

    given = {"dtype": "float32", "enforce_eager": True, "max_model_len": 128, **options}
    return EngineArgs(model=str(folder), **given).create_engine_config()


def one_line(error: BaseException) -> None:
    """Asserts that an error of ours is one."""
    assert isinstance(error, ValueError) or len(str(error).splitlines()) == 1


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "pipeline": ({"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}, "[Pp]ipeline"),
    "lora": ({"enable_lora": True}, "enable_lora: expected none"),
    "pooling": ({"runner": "pooling"}, "pooling"),
    "prompt-embeds": ({"enable_prompt_embeds": True}, "enable_prompt_embeds: expected none"),
    "no-windows": ({"disable_sliding_window": True}, "disable_sliding_window: expected none"),
    "load-format": ({"load_format": "npcache"}, "load_format: expected one of auto, hf, safetensors or dummy"),
    "mtp": ({"speculative_config": {"method": "mtp", "num_speculative_tokens": 2}}, "mtp|speculative"),
    "heads": (
        {"tensor_parallel_size": 3, "distributed_executor_backend": "mp"},
        "tensor_parallel_size: expected a divisor of base's 4 heads, got 3",
    ),
    "shared-heads": (
        {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"},
        "tensor_parallel_size: expected a divisor or a multiple of large's 3 key-value heads, got 2",
    ),
    "longer": ({"max_model_len": 512}, "max_model_len .512. is greater than the derived max_model_len"),
    "method": ({"hf_overrides": {"method": {"name": "UpScale", "beta": "x"}}}, "method UpScale: beta: expected"),
    "beside": ({"hf_overrides": {"beta": 2.0}}, 'hf_overrides: expected beta inside {"method": ...}, got it beside'),
    "no-method": ({"hf_overrides": {"method": {"name": "Best"}}}, "method: expected one of .*, got 'Best'"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case: str, trio: Path) -> None:
    options, line = OPTIONS[case]
    with pytest.raises(REFUSED, match=line) as raised:
        configure(trio, **options)
    one_line(raised.value)


def test_eagle(trio: Path, models: dict[str, str], tmp_path: Path) -> None:
    eagle = tmp_path / "eagle"
    shutil.copytree(models["base"], eagle)
    config = json.loads((eagle / "config.json").read_text())
    (eagle / "config.json").write_text(json.dumps({**config, "architectures": ["EagleLlamaForCausalLM"]}))
    speculation = {"method": "eagle", "model": str(eagle), "num_speculative_tokens": 2}
    with pytest.raises(RuntimeError, match="speculative_config: expected one of draft_model, .*, got 'eagle'"):
        configure(trio, speculative_config=speculation)


def changed(trio: Path, tmp_path: Path, **values: Any) -> Path:
    """A copy of the checkpoint with other values in its config.json; one that is a dictionary is merged."""
    copy = tmp_path / "copy"
    shutil.copytree(trio, copy)
    config = json.loads((copy / "config.json").read_text())
    for key, value in values.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    (copy / "config.json").write_text(json.dumps(config))
    return copy


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "newer": ({"emulated_version": 99}, "emulated_version: expected 2 or less, got 99; a newer eft_ext wrote it"),
    "adapter": (
        {"weights": {"tuned": {"folder": "tuned", "adapter": True}}},
        "tuned: expected (whole weights, got an adapter|adapter_config.json in .*tuned, found none)",
    ),
    "own-code": ({"tuned": {"model_type": "of_a_stranger"}}, "tuned: expected a model that transformers knows"),
    "state": (
        {"tuned": {"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "num_heads": 12}},
        "tuned: expected a decoder with attention in every layer, got Mamba2ForCausalLM, one with",
    ),
    "no-heads": (
        {"tuned": {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}},
        "tuned: expected a decoder with attention in every layer, got MambaForCausalLM, one with",
    ),
    "images": (
        {"tuned": {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}},
        "tuned: expected a causal language model of text, got 'llava'",
    ),
    "nothing-said": ({"weights": {"base": {"folder": 3}}}, 'weights: expected {"folder": ...} or'),
    "elsewhere": ({"weights": {"base": {"folder": "../base"}}}, "weights: expected a folder inside the checkpoint"),
    "unknown": (
        {"tuned": {"architectures": ["ToldByNobody"]}},
        "tuned: expected an architecture that vLLM knows, got ToldByNobody",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_checkpoints(case: str, trio: Path, tmp_path: Path) -> None:
    values, line = BAD[case]
    with pytest.raises(REFUSED, match=line) as raised:
        configure(changed(trio, tmp_path, **values))
    one_line(raised.value)


def test_a_missing_folder(trio: Path, tmp_path: Path) -> None:
    folder = changed(trio, tmp_path)
    shutil.rmtree(folder / "base")
    with pytest.raises(
        RuntimeError, match="base: expected config.json in .*base, found none; pack the checkpoint again"
    ):
        configure(folder)


def test_a_model_of_one_is_no_checkpoint(models: dict[str, str]) -> None:
    with pytest.raises(RuntimeError, match="expected a checkpoint of eft pack, got LlamaConfig"):
        configure(models["base"], hf_overrides={"architectures": ["EmulatedForCausalLM"]})


def test_other_models_of_the_installation_start(models: dict[str, str]) -> None:
    assert configure(models["base"]).load_config.load_format == "auto"


def test_what_starts(trio: Path, models: dict[str, str], tmp_path: Path) -> None:
    assert configure(trio, load_format="hf").load_config.load_format == "emulated-hf"
    pair = tiny_models.packed(tmp_path / "pair", Realign(0.5), {name: models["base"] for name in Realign().models})
    two = configure(pair, tensor_parallel_size=2, distributed_executor_backend="mp", load_format="dummy")
    assert two.load_config.load_format == "dummy"
    longest = configure(trio, max_model_len=None)
    assert longest.model_config.max_model_len == 256
    other = configure(trio, hf_overrides={"method": {"name": "UpScale", "beta": 2.5}})
    assert other.model_config.hf_config.mixing_method.parameters == {"beta": 2.5}


def test_a_models_name_decides_nothing(models: dict[str, str], tmp_path: Path) -> None:
    """transformers takes a part of a configuration that is called "generator" for the whole's text model."""
    wide = tiny_models.save(tmp_path / "wide", "llama", 0, vocab_size=224)
    method = Weighted({"expert": 1.0, "generator": 0.5})
    folder = tiny_models.packed(tmp_path / "two", method, {"expert": models["base"], "generator": wide})
    whole = configure(folder).model_config
    assert whole.get_vocab_size() == whole.hf_config.vocab_size == whole.hf_config.expert.vocab_size < 224
    taken = Weighted({"expert": 1.0, "compute_logits": 0.5})
    folder = tiny_models.packed(tmp_path / "taken", taken, {"expert": models["base"], "compute_logits": wide})
    with pytest.raises(RuntimeError, match="method: expected another name of a model than 'compute_logits'"):
        configure(folder)
