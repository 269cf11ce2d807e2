"""A LoRA adapter as the tuned model: base is loaded once and runs with and without it.

    python examples/lora.py [LARGE ADAPTER BASE]

Without arguments it trains an adapter of the shipped small model on polite answers, some seconds, and saves it in a
temporary folder. Prints the memory of base and tuned together, and the answers of the large model with and
without the behaviour. Needs `pip install '.[hf,peft]'`.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import eft_ext
from eft_ext.demo import model_path
from eft_ext.demo.text import tuning_examples
from eft_ext.demo.world import World

PROMPT = "Question: Which instrument did Krulass Radrin play?\nAnswer:"
LARGE, BASE = str(model_path("large-base")), str(model_path("small-base"))


def train(folder: str, steps: int = 40) -> str:
    """Saves an adapter of the small base model there that answers politely."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE, padding_side="right")
    base = AutoModelForCausalLM.from_pretrained(BASE)
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pairs = tuning_examples(World().questions("tuning"))
    for step in range(steps):
        texts = [prompt + answer + tokenizer.eos_token for prompt, answer in pairs[16 * step : 16 * (step + 1)]]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
        model(**batch, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
    return folder


def size(*models: Any) -> dict[bool, int]:
    """Bytes of the models' weights, those of adapters (True) apart; shared ones count once."""
    found = {False: 0, True: 0}
    weights = {weight.data_ptr(): (name, weight) for model in models for name, weight in model.named_parameters()}
    for name, weight in weights.values():
        found["lora_" in name] += weight.nbytes
    return found


def main(large: str = LARGE, adapter: str | None = None, base: str = BASE) -> None:
    """Loads the adapter as tuned, and answers with beta 0 and 1."""
    with tempfile.TemporaryDirectory() as folder:
        model = eft_ext.EmulatedModel.from_pretrained(large, adapter or train(folder), base, quiet=True)
    found = size(model.base, model.tuned)
    print(f"base and tuned: {found[False]:,} bytes of weights for both, {found[True]:,} of the adapter")
    for beta in (0.0, 1.0):
        print(f"beta {beta}:{model.generate_text(PROMPT, beta=beta, max_new_tokens=30)[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
