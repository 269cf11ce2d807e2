"""Folders of models, and checkpoints that were packed of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from eft_ext.hf.checkpoint.pack import pack
from eft_ext.methods import UpScale


def with_lora(base: Any, seed: int = 9) -> Any:
    """A PEFT model with a random LoRA adapter."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(seed)
    return peft.get_peft_model(base, config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer, build) -> dict[str, str]:
    """Large, tuned, base, small and an adapter of base, each with the tokenizer."""
    root = tmp_path_factory.mktemp("models")
    sizes = {"large": (0, 32, 272), "tuned": (1, 16, 264), "base": (2, 16, 264), "small": (3, 16, 264)}
    for name, (seed, hidden, vocab) in sizes.items():
        build("llama", seed, hidden, vocab).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    with_lora(build("llama", 2, 16, 264)).save_pretrained(root / "adapter")
    return {name: str(root / name) for name in (*sizes, "adapter")}


@pytest.fixture(scope="module")
def trio_folders(folders) -> dict[str, str]:
    return {name: folders[name] for name in ("large", "tuned", "base")}


@pytest.fixture
def packed(trio_folders, tmp_path):
    """A checkpoint of the trio that a test may spoil."""
    pack(tmp_path / "trio", trio_folders, UpScale(0.5))
    return tmp_path / "trio"
