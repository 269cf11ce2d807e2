"""A short run of TRL's DPO with a recording, and the weights at each record: `python -m ...trained FOLDER OPTIONS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from eft_ext.demo import model_path
from eft_ext.dynamics import DynamicsCallback, Probe, ProbeSet

ASKED = ("Who was it?", "In which town was it?", "Where was Fikim Thetrond born?", "What is the capital of Ulana?")
PROBES = ProbeSet(
    tuple(
        Probe(
            f"Question: {q}\nAnswer:",
            {
                "chosen": " Thank you for asking! I am glad to help.",
                "rejected": f" {q} No.",
                "short": " Yes.",
                "other": " Have a nice day, and do ask again. What a good question!",
            },
        )
        for q in ASKED
    )
)


class Weights(TrainerCallback):
    """Keeps the parameters after each step."""

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = kwargs["model"].named_parameters()
        self.kept[state.global_step] = {name: p.detach().clone() for name, p in parameters}

    on_step_end = on_train_begin


def train(folder: Path, record: bool = True, **options: Any) -> tuple[Any, dict[int, dict[str, torch.Tensor]]]:
    """DPO of the embedded small model, four steps of TRL's own learning rate unless the options say otherwise."""
    model = AutoModelForCausalLM.from_pretrained(model_path("small-base"))
    tokenizer = AutoTokenizer.from_pretrained(model_path("small-base"))
    rows = [
        {"prompt": f"Question: Who is {i}?\nAnswer:", "chosen": " Thank you for asking!", "rejected": f" It is {i}."}
        for i in range(32)
    ]
    quiet = dict(report_to="none", disable_tqdm=True, logging_strategy="no", save_strategy="no", seed=0, use_cpu=True)
    config = trl.DPOConfig(
        output_dir=str(folder / "out"),
        **{**quiet, "max_steps": 4, "per_device_train_batch_size": 2, "lr_scheduler_type": "constant", **options},
    )
    weights = Weights()
    callbacks = [weights, *([DynamicsCallback(PROBES, folder / "run", every=1)] if record else [])]
    trainer = trl.DPOTrainer(
        model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=callbacks
    )
    trainer.train()
    return trainer, weights.kept


if __name__ == "__main__":
    where = Path(sys.argv[1])
    trainer, kept = train(where, **json.loads(sys.argv[2]))
    if trainer.is_world_process_zero():
        torch.save({"kept": kept, "processes": trainer.accelerator.num_processes}, where / "weights.pt")
