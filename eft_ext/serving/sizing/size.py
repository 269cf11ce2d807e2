"""Sizes of a checkpoint: its models, and what fits given GPUs."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from eft_ext.config import EmulatedConfig
from eft_ext.hf.checkpoint.read import Checkpoint
from eft_ext.serving.sizing.fit import Load, Model, fit
from eft_ext.serving.sizing.gpus import Gpus
from eft_ext.serving.sizing.kv_cache import layers_of
from eft_ext.serving.sizing.reserve import batch_of
from eft_ext.serving.sizing.result import Row, Sizing
from eft_ext.serving.sizing.weights import weights
from eft_ext.serving.vllm.checks import check_models

UTILIZATION = 0.92  # --gpu-memory-utilization of vLLM 0.32
_DTYPES = {
    **{"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32},
    **{"half": torch.float16, "float": torch.float32},
}
_KV_BYTES = {"bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


def size(
    checkpoint: Checkpoint,
    gpus: Gpus | None,
    *,
    dtype: str = "auto",
    kv_cache_dtype: str = "auto",
    utilization: float = UTILIZATION,
    max_model_len: int | None = None,
    tensor_parallel: int | None = None,
    speculate: int = 0,
    max_num_batched_tokens: int | None = None,
    max_num_seqs: int | None = None,
) -> Sizing:
    """Calculates a checkpoint's memory in vLLM from its configurations and the headers of local files.

    Args:
        gpus: where it is to run; None sizes the models alone.
        dtype, kv_cache_dtype, utilization, max_model_len, max_num_batched_tokens, max_num_seqs: vLLM's options.
        tensor_parallel: GPUs of a replica; the fewest that do, unless given.
        speculate: drafts a step, for which one model is loaded a second time.

    Raises:
        ValueError: an option out of range, or a checkpoint or parallelism that vLLM would refuse.
    """
    config = checkpoint.config
    check_models(config, checkpoint.places, tensor_parallel or 1)
    if not 0 < utilization <= 1:
        raise ValueError(f"--gpu-memory-utilization: expected more than 0, at most 1, got {utilization}")
    if gpus is not None and (tensor_parallel or 1) > gpus.count:
        raise ValueError(f"--tensor-parallel-size: expected at most {gpus.count}, got {tensor_parallel}")
    kind = _dtype(config, dtype)
    kv_name, kv_size = _kv_dtype(kv_cache_dtype, kind)
    models = [
        Model(name, getattr(config, name), weights(getattr(config, name), checkpoint.places[name], kind))
        for name in config.mixing_method.models
    ]
    if speculate:
        models.append(_drafter(models))
    length = _length(config, max_model_len)
    rows = tuple(_row(each, kv_size) for each in models)
    found = Sizing(rows, str(kind).removeprefix("torch."), kv_name, length, utilization, speculate, gpus)
    if gpus is None:
        return replace(found, why="--gpus 8xH100, for example, adds what fits there.")
    batch = batch_of(gpus, length, max_num_batched_tokens, max_num_seqs)
    return fit(found, Load(models, speculate, batch, kind.itemsize, kv_size), tensor_parallel)


def _length(config: EmulatedConfig, given: int | None) -> int:
    """The longest request, as vLLM has it."""
    most = getattr(config, "max_position_embeddings", None)
    if given and most and given > most and os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0") == "0":
        raise ValueError(f"--max-model-len: expected at most {most}, which the models have, got {given}")
    return given or most or 2048


def _dtype(config: EmulatedConfig, given: str) -> torch.dtype:
    """The dtype that vLLM runs all models in: with "auto" the checkpoint's, but bfloat16 for fp32."""
    if given == "auto":
        stored = getattr(config, "dtype", None) or torch.float32
        stored = getattr(torch, stored) if isinstance(stored, str) else stored
        return torch.bfloat16 if stored == torch.float32 else stored
    if given not in _DTYPES:
        raise ValueError(f"--dtype: expected auto or one of {', '.join(_DTYPES)}, got {given!r}")
    return _DTYPES[given]


def _kv_dtype(given: str, kind: torch.dtype) -> tuple[str, int]:
    """Name and bytes of the numbers in the cache; "auto" are the models'."""
    if given == "auto":
        return str(kind).removeprefix("torch."), kind.itemsize
    if given not in _KV_BYTES:
        raise ValueError(f"--kv-cache-dtype: expected auto or one of {', '.join(_KV_BYTES)}, got {given!r}")
    return given, _KV_BYTES[given]


def _drafter(models: list[Model]) -> Model:
    """The second model again, tuned by name, as `eft_ext.serving.vllm.server` has it draft."""
    if len(models) < 2:
        raise ValueError(
            f"--speculate: expected several models, of which the second drafts, got {models[0].name} alone"
        )
    return replace(models[1], name=f"{models[1].name} (drafts)")


def _row(model: Model, kv_size: int) -> Row:
    given, kind = model.weights, model.config.model_type
    kv = sum(layer.bytes for layer in layers_of(model.config, kv_size))
    return Row(model.name, kind, given.parameters, given.dtype, given.bytes, kv)
