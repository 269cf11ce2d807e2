"""Configurations of published models by their numbers, and checkpoints of them without weights."""

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from eft_ext.hf.checkpoint.read import Checkpoint, read
from python_tests.helpers.examples import imported

_example = imported("sizing")
llama, qwen, write = _example.llama, _example.qwen, _example.write
llama_70b, llama_8b = _example.llama_70b, _example.llama_8b
qwen_32b, qwen_1_5b = _example.qwen_32b, _example.qwen_1_5b


def checkpoint(path: Path, *configs: PretrainedConfig, **options: Any) -> Checkpoint:
    """A checkpoint whose models' weights are on the hub, under names that are not there."""
    return read(write(path, *configs, **options), {})
