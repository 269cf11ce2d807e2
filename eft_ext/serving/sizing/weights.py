"""The memory of one model's weights in vLLM, without loading any."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto import CONFIG_MAPPING

from eft_ext.hf.checkpoint.read import Place
from eft_ext.hf.loading.memory import auto_class, header, stored_bytes, weight_files
from eft_ext.serving.sizing.kv_cache import kv_heads

_REPLICATED = (
    "_a_proj.weight",
    "_a_proj_with_mqa.weight",
    ".gate.weight",
)  # projections to a latent, and routers: whole on each GPU


@dataclass(frozen=True)
class Weights:
    """Weights of one model as vLLM loads them.

    Args:
        parameters: how many; tied ones count once, and quantised ones as they are stored.
        dtype: of the weights, or the kind of their quantisation.
        bytes: of all.
        replicated: bytes of those that each GPU of a tensor-parallel group holds whole.
    """

    parameters: int
    dtype: str
    bytes: int
    replicated: int


def weights(config: Any, place: Place, dtype: torch.dtype) -> Weights:
    """The weights of a model: from headers of safetensors in a local folder, else from its configuration.

    Args:
        config: the model's.
        dtype: what vLLM converts weights to that are not quantised.
    """
    quantisation = _quantisation(config)
    files = weight_files(place.source)
    found = _from_files(files, dtype, bool(quantisation)) if files else _from_config(config, dtype, quantisation)
    tied = getattr(config, "tie_word_embeddings", False)
    parameters, total, replicated = 0, 0.0, 0.0
    for name, shape, size in found:
        if name.endswith("rotary_emb.inv_freq") or (tied and name == "lm_head.weight"):
            continue
        parameters += math.prod(shape)
        total += math.prod(shape) * size
        whole = len(shape) < 2 or name.endswith(_REPLICATED)
        replicated += math.prod(shape) * size if whole else 0
    label = quantisation.get("quant_method") or "quantised" if quantisation else str(dtype).removeprefix("torch.")
    return Weights(parameters, str(label), math.ceil(total), math.ceil(replicated))


def _from_files(files: list[Path], dtype: torch.dtype, quantised: bool) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """Name, shape and bytes an element of each tensor; scales of a quantised model stay as they are."""
    for file in files:
        for name, tensor in header(file).items():
            kind = tensor["dtype"]
            plain = kind in ("F64", "F32", "F16", "BF16") and name.endswith((".weight", ".bias"))
            converted = plain if quantised else "F" in kind
            yield name, tuple(tensor["shape"]), dtype.itemsize if converted else stored_bytes(kind)


def _from_config(
    config: Any, dtype: torch.dtype, quantisation: dict[str, Any]
) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """The same of a model without memory; of a quantised one all matrices but embedding and head have fewer bits."""
    few = _bits(quantisation) / 8 if quantisation else dtype.itemsize
    for name, shape, plain in _shapes(config.to_json_string()):
        yield name, shape, dtype.itemsize if plain else few


@lru_cache(maxsize=8)  # models of one size share it
def _shapes(config: str) -> list[tuple[str, tuple[int, ...], bool]]:
    """Names and shapes of a model's parameters by its configuration as JSON, and whether quantisation leaves them."""
    values = json.loads(config)
    values.pop("quantization_config", None)
    built = CONFIG_MAPPING[values.pop("model_type")].from_dict(values)
    with torch.device("meta"):
        model = auto_class(built).from_config(built)
    words = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer}
    return [(name, tuple(p.shape), p.ndim < 2 or id(p) in words) for name, p in model.named_parameters()]


def _quantisation(config: Any) -> dict[str, Any]:
    """The quantisation that a configuration names; empty without one."""
    given = getattr(config, "quantization_config", None) or {}
    return dict(given if isinstance(given, dict) else given.to_dict())


def _bits(given: dict[str, Any]) -> float:
    """Bits of a quantised weight with its share of scales; 16 where the kind is not known, which is no less."""
    if given.get("load_in_4bit"):
        return 4 + 32 / 64  # an fp32 scale for 64 weights
    groups = given.get("config_groups") or {}
    scheme = next((group["weights"] for group in groups.values() if group.get("weights")), given)
    kinds = {"fp8": 8, "mxfp4": 4}
    bits = scheme.get("bits") or scheme.get("w_bit") or scheme.get("num_bits")
    bits = bits or kinds.get(given.get("quant_method", "")) or (8 if given.get("load_in_8bit") else 16)
    group = scheme.get("group_size") or (32 if given.get("quant_method") == "mxfp4" else 0)
    return bits + (16 + bits) / group if group > 0 else bits  # a scale of 16 bits and a zero point


def rank_bytes(config: Any, given: Weights, ranks: int) -> int:
    """Bytes of a model's weights on one of so many GPUs: a share, what is whole, and copies of key-value heads."""
    found = given.replicated + (given.bytes - given.replicated) / ranks
    if getattr(config, "kv_lora_rank", None) is None:
        heads, width = kv_heads(config)
        projected = 2 * config.num_hidden_layers * config.hidden_size * width * given.bytes / given.parameters
        found += max(0, 1 - heads / ranks) * projected
    return math.ceil(found)
