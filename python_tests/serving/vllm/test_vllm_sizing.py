"""The sizing against an engine: its tensors' bytes, its cache's blocks and its own count of tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from eft_ext.demo import checkpoint_path
from eft_ext.hf.checkpoint.read import read
from eft_ext.methods import UpScale
from eft_ext.serving.sizing import kv_cache, size
from eft_ext.serving.vllm.loader import EmulatedLoader
from python_tests.helpers import tiny_models
from python_tests.serving.vllm.test_vllm_quantized import quantize

pytestmark = pytest.mark.slow
BLOCK = 32  # of the engines here; the sizing has that of GPUs, 16
HEADS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}),
    ("qwen3", {"head_dim": 64, "tie_word_embeddings": True}),
    ("qwen2", {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 3, "num_hidden_layers": 4}),
]
DRAFTS = {"method": "draft_model", "num_speculative_tokens": 2}


def weight_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of each model's parameters, without the rows by which vLLM rounds a vocabulary up.

    An attention layer beside quantised ones has a few scalars for the cache's scales, which vLLM drops after loading.
    """
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        rows = getattr(owner, "org_vocab_size", None) or len(parameter)
        role = name.split(".")[0]
        if ".attn." in name:
            assert parameter.numel() == 1
            continue
        found[role] = found.get(role, 0) + parameter[:rows].nbytes
    return found


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Bytes of each model of an engine, once loaded: afterwards a CPU packs some and frees them."""
    found: list[dict[str, int]] = []
    load = EmulatedLoader.load_weights

    def count(self: Any, model: nn.Module, model_config: Any) -> None:
        load(self, model, model_config)
        found.append(weight_bytes(model))

    monkeypatch.setattr(EmulatedLoader, "load_weights", count)
    return found


def cache_of(engine: Any) -> Any:
    return engine.llm_engine.engine_core.engine_core.scheduler.kv_cache_config


def bytes_of_block(engine: Any) -> int:
    """Bytes of a block over all layers; groups lie in one memory."""
    config = cache_of(engine)
    (whole,) = {tensor.size for tensor in config.kv_cache_tensors}
    assert whole % config.num_blocks == 0
    return int(whole // config.num_blocks)


def build(where: Path, models: list[tuple[str, dict[str, Any]]], quantised: str | None = None) -> Path:
    """A checkpoint of tiny models, one of which may be int8."""
    sources = tiny_models.save_all(where, dict(zip(UpScale.roles, models, strict=True)))
    if quantised:
        quantize(sources[quantised])
    return tiny_models.packed(where / "packed", UpScale(1.0), sources)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("which", ["shipped", "heads", "int8"])
def test_weights_and_tokens(
    which: str, dtype: str, start: Callable[..., Any], loaded: list[dict[str, int]], tmp_path: Path
) -> None:
    quantised = "tuned" if which == "int8" else None
    folder = checkpoint_path() if which == "shipped" else build(tmp_path, HEADS, quantised)
    sizing = size(read(folder, {}), None, dtype=dtype)
    engine = start(folder, dtype=dtype)
    assert loaded == [{row.name: row.weight_bytes for row in sizing.rows}]
    assert bytes_of_block(engine) == BLOCK * sizing.kv_bytes
    config = engine.llm_engine.vllm_config.cache_config
    # of the 1 GiB that conftest.py gives, but for the block that pads
    assert (cache_of(engine).num_blocks - 1) * BLOCK * sizing.kv_bytes <= 2**30
    assert config.kv_cache_size_tokens // BLOCK * BLOCK * sizing.kv_bytes == pytest.approx(2**30, rel=0.01)


def test_drafts(start: Callable[..., Any], loaded: list[dict[str, int]], tmp_path: Path) -> None:
    folder = build(tmp_path, HEADS)
    sizing = size(read(folder, {}), None, dtype="float32", speculate=2)
    engine = start(folder, speculative_config={**DRAFTS, "model": str(folder / "tuned")})
    mixed, drafter = loaded
    assert [*mixed.values(), sum(drafter.values())] == [row.weight_bytes for row in sizing.rows]
    assert bytes_of_block(engine) == BLOCK * sizing.kv_bytes


@pytest.mark.parametrize("trio", ["windows", "gemmas", "norms", "experts", "heads"])
@pytest.mark.filterwarnings("ignore:.*soft")
def test_blocks_of_windows(
    trio: str, start: Callable[..., Any], saved_trio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that keep a window beside layers that keep all."""
    if trio == "heads":
        folder = build(tmp_path, HEADS)
    else:
        folder = tiny_models.packed(tmp_path / "packed", UpScale(1.0), saved_trio(trio))
    engine = start(folder)
    monkeypatch.setattr(kv_cache, "BLOCK", BLOCK)
    config = read(folder, {}).config
    layers = [each for name in ("large", "tuned", "base") for each in kv_cache.layers_of(getattr(config, name), 4)]
    own, its, options = kv_cache.cache(layers), cache_of(engine), engine.llm_engine.vllm_config
    assert own.block_bytes == bytes_of_block(engine)
    assert len(own.groups) == len(its.kv_cache_groups)
    needed = own.blocks(options.model_config.max_model_len, options.max_in_flight_tokens)
    assert options.cache_config.kv_cache_max_concurrency == pytest.approx(its.num_blocks / needed)


def test_two_ranks(start: Callable[..., Any], tmp_path: Path) -> None:
    """Two key-value heads are shared out; of one each rank has a copy."""
    models = [HEADS[0], HEADS[1], ("qwen2", {**HEADS[0][1], "num_key_value_heads": 1})]
    folder = build(tmp_path, models)
    engine = start(folder, tensor_parallel_size=2)
    config = read(folder, {}).config
    layers = [each for name in ("large", "tuned", "base") for each in kv_cache.layers_of(getattr(config, name), 4, 2)]
    assert bytes_of_block(engine) == BLOCK * sum(each.bytes for each in layers)
    assert {each.heads for each in layers} == {1}
